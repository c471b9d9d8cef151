"""The base's own chat template, and what it has words for. Adapters never bring one."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Final

from inference.model.json_file import read_object
from inference.model.template_runner import RUNNER, TemplateRefused
from inference.reading import Refused, shown

Turn = dict[str, Any]

_PROBED: Final = "probed_name"
"""What is looked for in a filled template, as a name, as an argument and as a result."""
_ASKED: Final[Turn] = {"role": "user", "content": "probed_question"}
_TOOL: Final = {"type": "function", "function": {"name": _PROBED, "description": "", "parameters": {"type": "object"}}}
_CALL: Final = {"id": "probed123", "type": "function", "function": {"name": _PROBED, "arguments": {"probed_key": 1}}}
_HISTORY: Final[list[Turn]] = [
    _ASKED,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "probed_result", "tool_call_id": "probed123", "name": _PROBED},
]


class ChatTemplate:
    """The template of the model in `directory`; `exists` is False where it has none.

    Some bases have a second one for conversations with tools. `names` are the base's special tokens.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], names: dict[str, str]) -> None:
        self.source, with_tools = _sources(directory, settings.get("chat_template"))
        self._with_tools = self.source if with_tools is None else with_tools
        self._names = {name: token for name, token in names.items() if token}
        if self.exists:
            RUNNER.start()

    @property
    def exists(self) -> bool:
        return self.source is not None

    def render(self, turns: list[Turn], tools: list[Any] | None = None) -> str:
        """The text of a conversation up to where the answer starts. Raises `TemplateRefused`."""
        is_plain = not tools and not any("tool_calls" in turn or turn["role"] == "tool" for turn in turns)
        source = self.source if is_plain else self._with_tools
        assert source is not None
        asked = {"messages": turns, "tools": tools or None, "add_generation_prompt": True}
        return RUNNER.render(source, {**self._names, **asked})

    @cached_property
    def shows_tools(self) -> bool:
        """Whether it tells the model which tools there are."""
        return self._shows([_ASKED], [_TOOL], (_PROBED,))

    @cached_property
    def shows_calls(self) -> bool:
        """Whether it has words for earlier calls and for what they brought."""
        return self._shows(_HISTORY, None, (_PROBED, "probed_key", "probed_result"))

    def _shows(self, turns: list[Turn], tools: list[Any] | None, words: tuple[str, ...]) -> bool:
        if not self.exists:
            return False
        try:
            text = self.render(turns, tools)
        except TemplateRefused:
            return False
        return all(word in text for word in words)


def _sources(directory: Path, settled: Any) -> tuple[str | None, str | None]:
    """The template, and the one for tools where that is another."""
    path = directory / "chat_template.jinja"
    more = directory / "additional_chat_templates" / "tool_use.jinja"
    settled = settled or read_object(directory / "chat_template.json", Refused).get("chat_template")
    named = _named(settled) if isinstance(settled, list) else {"default": settled}
    if wrong := [each for each in named.values() if not isinstance(each, str | None)]:
        raise Refused(f"a chat_template of {directory} is {shown(wrong[0])}; it is a text, or lists names with theirs")
    plain = path.read_text("utf-8") if path.is_file() else named.get("default")
    with_tools = more.read_text("utf-8") if more.is_file() else named.get("tool_use")
    return plain, with_tools


def _named(settled: list[Any]) -> dict[str, Any]:
    pairs = [each if isinstance(each, dict) else {} for each in settled]
    return {str(each.get("name")): each.get("template", each) for each in pairs}
