"""A conversation in the words of a base's chat template, and where that has none for a part of it, in ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from inference.model.chat_template import ChatTemplate
from inference.model.system_turns import has_system, shows_system, with_system_merged
from inference.model.template_runner import TemplateExceeded, TemplateRefused
from inference.model.tool_turns import in_words, tools_of, turns_of, with_tools_said
from inference.wire.protocol import Message

Conversation = tuple[Message, ...]


def written(template: ChatTemplate, messages: Conversation, tools: str, guard: Callable[[str], str]) -> str:
    """The text of `messages` with `tools`, up to where the answer starts or goes on; every text of a user is behind
    `guard`. What the template refuses or leaves out (several calls at once, system messages) it is told in our words.

    Raises `TemplateRefused`.
    """
    if messages and messages[-1].is_open:
        return written(template, messages[:-1], tools, guard) + guard(messages[-1].content)
    is_shown = not tools or template.shows_tools
    told = messages if is_shown else with_tools_said(messages, tools)
    shown = tools_of(tools if is_shown else "", guard)
    refusals, lacking = list[TemplateRefused](), list[str]()
    for variant in _variants(template, told):
        try:
            text = template.render(turns_of(variant, guard), shown)
        except TemplateExceeded:
            raise
        except TemplateRefused as refusal:
            refusals.append(refusal)
            continue
        if shows_system(text, variant, guard):
            return text
        lacking.append(text)
    if lacking:
        return lacking[0]
    raise refusals[0]


def _variants(template: ChatTemplate, messages: Conversation) -> Iterator[Conversation]:
    """A conversation as it is, then as templates take it that know neither calls nor system messages."""
    has_calls = any(message.tool_calls or message.role == "tool" for message in messages)
    plain = in_words(messages, "") if has_calls else messages
    if has_calls and template.shows_calls:
        yield messages
    yield plain
    if has_system(messages):
        yield with_system_merged(plain)
