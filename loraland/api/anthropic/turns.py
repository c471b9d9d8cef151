"""Anthropic's messages, whose contents are texts or blocks, as the messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from inference.wire.protocol import Message
from loraland.api.openai.beside import beside
from loraland.api.openai.neutral import LABEL, Rule
from loraland.api.tools.asked import shown, wrong
from loraland.api.tools.history import one_call

NOT_READ: Final = {
    "image": "images are not read here; send text blocks only",
    "document": "documents are not read here; send their text as a text block",
    "search_result": "search results are not read here; send their text as a text block",
    "container_upload": "files are not read here; send their text as a text block",
}
PASSED: Final = ("thinking", "redacted_thinking")
"""Blocks that other models wrote for themselves, of which nothing is in a prompt here."""
READ: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("type", "text"),
    "tool_use": ("type", "id", "name", "input"),
    "tool_result": ("type", "tool_use_id", "content", "is_error"),
}
"""What is read of a block of each type."""
LABELS: Final[Mapping[str, Rule]] = dict.fromkeys(("cache_control", "citations", "caller", "toolset_name"), LABEL)
FAILED: Final = "Error: "
"""Tells a model that a call brought no result: chat templates have no word for it."""


def messages_of(given: Any, system: Any) -> tuple[list[Message], tuple[str, ...]]:
    """The messages of a chat, the system's first, and the paths of what changes nothing. Raises `ApiError`."""
    if not isinstance(given, list) or not given:
        raise wrong("messages", f"{shown(given)} are no messages; send at least one, with the role user")
    ignored: list[str] = []
    messages = [Message("system", text)] if (text := _texts(system, "system", ignored)) else []
    for number, turn in enumerate(given):
        path = f"messages.{number}"
        role = turn.get("role") if isinstance(turn, dict) else None
        if role not in ("user", "assistant"):
            raise wrong(f"{path}.role", f"{shown(role)} is no role; there are user and assistant")
        ignored += beside(turn, ("role", "content"), {}, path)
        content = turn.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            raise wrong(f"{path}.content", f"{shown(content)} is no content; send a text, or a list of blocks")
        messages += (_said if role == "assistant" else _asked)(blocks, f"{path}.content", ignored)
    return _begun(messages, f"messages.{len(given) - 1}"), tuple(ignored)


def _begun(messages: list[Message], path: str) -> list[Message]:
    """`messages`, of which a last one of the assistant begins the answer."""
    *before, last = messages
    if last.role != "assistant":
        return messages
    if last.tool_calls:
        raise wrong(
            path, "a call stands last, and nothing of what it brought; send its tool_result in a turn of the user"
        )
    if not any(message.role in ("user", "tool") for message in before):
        raise wrong(path, "the answer goes on from a last turn of the assistant; send one of the user before it")
    return [*before, replace(last, is_open=True)]


def _asked(blocks: list[Any], path: str, ignored: list[str]) -> list[Message]:
    """A turn of the user: what tools brought stands before what it says."""
    results, texts = [], []
    for number, block in enumerate(blocks):
        where = f"{path}.{number}"
        if _kind(block) == "tool_result":
            results.append(_result(block, where, ignored))
        else:
            texts.append(_text(block, where, ignored))
    said = "\n".join(filter(None, texts))
    return [*results, *([Message("user", said)] if said or not results else [])]


def _said(blocks: list[Any], path: str, ignored: list[str]) -> list[Message]:
    """A turn of the model: its words and its calls are one message."""
    calls, texts = [], []
    for number, block in enumerate(blocks):
        where = f"{path}.{number}"
        if _kind(block) == "tool_use":
            calls.append(one_call(_id(block, "id", where), block.get("name"), block.get("input", {}), where))
            ignored += beside(block, READ["tool_use"], LABELS, where)
        else:
            texts.append(_text(block, where, ignored))
    told = json.dumps(calls, ensure_ascii=False) if calls else ""
    return [Message("assistant", "\n".join(filter(None, texts)), told)]


def _result(block: dict[str, Any], path: str, ignored: list[str]) -> Message:
    id = _id(block, "tool_use_id", path)
    has_failed = block.get("is_error") or False
    if not isinstance(has_failed, bool):
        raise wrong(f"{path}.is_error", f"{shown(has_failed)} is neither true nor false")
    ignored += beside(block, READ["tool_result"], LABELS, path)
    text = _texts(block.get("content"), f"{path}.content", ignored)
    return Message("tool", FAILED * has_failed + text, tool_call_id=id)


def _id(block: dict[str, Any], name: str, path: str) -> str:
    if not isinstance(id := block.get(name), str) or not id:
        raise wrong(f"{path}.{name}", "a call and its result share an id; send it with both")
    return id


def _texts(content: Any, path: str, ignored: list[str]) -> str:
    """A text, or one in blocks."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise wrong(path, f"{shown(content)} is no text; send a text, or a list of text blocks")
    return "\n".join(_text(block, f"{path}.{number}", ignored) for number, block in enumerate(content))


def _text(block: Any, path: str, ignored: list[str]) -> str:
    kind = _kind(block)
    if kind in PASSED:
        ignored.append(path)
        return ""
    if isinstance(kind, str) and kind in NOT_READ:
        raise wrong(f"{path}.type", NOT_READ[kind])
    if kind != "text" or not isinstance(block.get("text"), str):
        raise wrong(path, f"{shown(block)} is no block with a text; send type text")
    ignored += beside(block, READ["text"], LABELS, path)
    return str(block["text"])


def _kind(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None
