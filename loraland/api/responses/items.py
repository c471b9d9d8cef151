"""The items of a response's `input`, as the messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from inference.wire.protocol import Message
from loraland.api.openai.beside import beside
from loraland.api.openai.chat import NOT_READ
from loraland.api.openai.neutral import LABEL, PART, Rule
from loraland.api.tools.asked import shown, wrong
from loraland.api.tools.history import one_call

TEXTS: Final = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
HARMLESS: Final = ("reasoning",)
"""Items that other servers' answers hold, and that are no part of a conversation here."""
READ: Final[Mapping[str, tuple[str, ...]]] = {
    "message": ("type", "role", "content"),
    "function_call": ("type", "call_id", "name", "arguments"),
    "function_call_output": ("type", "call_id", "output"),
}
"""What is read of an item of each type."""
LABELS: Final[Mapping[str, Rule]] = dict.fromkeys(("id", "status", "phase", "caller", "created_by"), LABEL)
OF_CALLS: Final[Mapping[str, Rule]] = {**LABELS, "name": LABEL, "namespace": LABEL}
OF_PARTS: Final[Mapping[str, Rule]] = {**PART, "prompt_cache_breakpoint": LABEL}
ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def messages_of(given: Any) -> tuple[list[Message], tuple[str, ...]]:
    """The messages in `given`, and the paths of the items that change nothing. Raises `ApiError`."""
    if isinstance(given, str) and given:
        return [Message("user", given)], ()
    if not isinstance(given, list) or not given:
        raise wrong("input", f"{shown(given)} is no input; send a text, or a list of items with a role and content")
    messages: list[Message] = []
    ignored: list[str] = []
    for number, item in enumerate(given):
        path = f"input.{number}"
        if not isinstance(item, dict):
            raise wrong(path, f"{shown(item)} is no item; send an object with a role and content")
        if item.get("type") in HARMLESS:
            ignored.append(path)
            continue
        if item.get("type") == "function_call":
            _add_call(messages, item, path)
        else:
            messages.append(_message(item, path, ignored))
        kind = item.get("type") or "message"
        ignored += beside(item, READ[kind], LABELS if kind == "message" else OF_CALLS, path)
    return messages, tuple(ignored)


def _add_call(messages: list[Message], item: dict[str, Any], path: str) -> None:
    """Calls in a row are of one turn, as chats tell them."""
    call = one_call(_id(item, path), item.get("name"), item.get("arguments", "{}"), path)
    calls = [call]
    if messages and messages[-1].role == "assistant":
        before = messages.pop()
        calls = [*json.loads(before.tool_calls or "[]"), call]
        messages.append(Message("assistant", before.content, json.dumps(calls, ensure_ascii=False)))
    else:
        messages.append(Message("assistant", "", json.dumps(calls, ensure_ascii=False)))


def _message(item: dict[str, Any], path: str, ignored: list[str]) -> Message:
    kind = item.get("type") or "message"
    if kind == "function_call_output":
        return Message("tool", _text(item.get("output"), f"{path}.output", ignored), tool_call_id=_id(item, path))
    if kind != "message":
        sentence = f"{shown(kind)} is no item that is read here; send message, function_call or function_call_output"
        raise wrong(f"{path}.type", sentence)
    if not isinstance(role := item.get("role"), str) or role not in ROLES:
        raise wrong(f"{path}.role", f"{shown(role)} is no role; there are {', '.join(ROLES)}")
    return Message(ROLES[role], _text(item.get("content"), f"{path}.content", ignored))


def _id(item: dict[str, Any], path: str) -> str:
    if not isinstance(id := item.get("call_id"), str) or not id:
        raise wrong(f"{path}.call_id", "a call and its output share a call_id; send it with both")
    return id


def _text(content: Any, path: str, ignored: list[str]) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(path, f"{shown(content)} is no content; send a text, or a list of parts with a text")
    return "".join(_part(part, f"{path}.{number}", ignored) for number, part in enumerate(content))


def _part(part: Any, path: str, ignored: list[str]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in NOT_READ:
        raise wrong(f"{path}.type", NOT_READ[kind])
    text = part.get(TEXTS[kind]) if isinstance(kind, str) and kind in TEXTS else None
    if not isinstance(text, str):
        raise wrong(path, f"{shown(part)} is no part with a text; send input_text or output_text")
    ignored += beside(part, ("type", TEXTS[str(kind)]), OF_PARTS, path)
    return text
