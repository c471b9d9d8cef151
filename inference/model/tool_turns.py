"""Tools and their calls in a conversation: as a chat template takes them, and in words where it has none for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final

from inference.wire.protocol import Message

Turn = dict[str, Any]

_SYSTEM: Final = """\
You may call these functions. Each line describes one:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as JSON between <tool_call> and </tool_call>, like this:
<tool_call>
{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>
Call one only where it helps; else answer in plain words."""
_ID_LENGTH: Final = 9
"""The length of a call's id in the templates that show one (Mistral's take no other)."""


def turns_of(messages: Sequence[Message], guard: Callable[[str], str]) -> list[Turn]:
    """`messages` as a chat template takes them, every text of a user behind `guard`."""
    names: dict[str, str] = {}
    turns = []
    for message in messages:
        turn: Turn = {"role": message.role, "content": guard(message.content)}
        if message.tool_calls:
            turn["tool_calls"] = [_call(call, guard) for call in json.loads(message.tool_calls)]
            names |= {call["id"]: call["function"]["name"] for call in turn["tool_calls"]}
        if message.role == "tool":
            id = short_id(message.tool_call_id)
            turn |= {"tool_call_id": id} | ({"name": names[id]} if id in names else {})
        turns.append(turn)
    return turns


def tools_of(tools: str, guard: Callable[[str], str]) -> list[Any]:
    """The list of tools on the wire as a chat template takes it."""
    return [guarded(tool, guard) for tool in json.loads(tools)] if tools else []


def in_words(messages: Sequence[Message], tools: str) -> tuple[Message, ...]:
    """The same conversation for a template that knows neither tools nor calls: they are said in its texts."""
    said: list[Message] = []
    for is_result, group in groupby(messages, lambda message: message.role == "tool"):
        told = [_said(message) for message in group]
        # Some templates want a user and an assistant by turns.
        said += [Message("user", "\n".join(message.content for message in told))] if is_result else told
    return with_tools_said(said, tools)


def with_tools_said(messages: Sequence[Message], tools: str) -> tuple[Message, ...]:
    """`messages` with the description of `tools` at the end of their system message."""
    if not tools:
        return tuple(messages)
    lines = "\n".join(_dumped(tool) for tool in json.loads(tools))
    text = _SYSTEM.format(tools=lines)
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{text}"), *messages[1:])
    return (Message("system", text), *messages)


def short_id(id: str) -> str:
    """The id of a call as templates take it: nine letters and digits, the same for the same id."""
    is_short = len(id) == _ID_LENGTH and id.isascii() and id.isalnum()
    return id if is_short else hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_LENGTH]


def guarded(value: Any, guard: Callable[[str], str]) -> Any:
    """A JSON value with every text in it behind `guard`."""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, list):
        return [guarded(item, guard) for item in value]
    if isinstance(value, dict):
        return {guard(key): guarded(item, guard) for key, item in value.items()}
    return value


def _call(call: Any, guard: Callable[[str], str]) -> Any:
    """One call as templates take it: the arguments an object, if they are one."""
    function = call["function"]
    arguments = _read(function["arguments"])
    called = {"name": function["name"], "arguments": guarded(arguments, guard)}
    return {"id": short_id(call["id"]), "type": "function", "function": called}


def _read(arguments: str) -> Any:
    try:
        read = json.loads(arguments)
    except ValueError:
        return arguments
    return read if isinstance(read, dict) else arguments


def _said(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = [{"name": each["name"], "arguments": _read(each["arguments"])} for each in _functions(message)]
    blocks = [f"<tool_call>\n{_dumped(call)}\n</tool_call>" for call in calls]
    return Message(message.role, "\n".join([message.content, *blocks] if message.content else blocks))


def _functions(message: Message) -> list[Any]:
    return [call["function"] for call in json.loads(message.tool_calls)]


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
