"""What a page may say over its socket: one frozen class a message, read strictly and refused with a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final
from uuid import UUID

from inference.adapters.storable import is_storable
from inference.wire.contract import position_of
from inference.wire.protocol import Sampling
from loraland.bases import BASE
from loraland.catalogue.versions import NAME
from loraland.playground import sampling

MAX_BYTES: Final = 64 * 1024
MAX_COLUMNS: Final = 4
MIN_COLUMNS: Final = 2

_COLUMN: Final = re.compile(rf"(?a:{NAME.pattern})|{BASE}:[\w.-]{{1,200}}")
_REFERENCE: Final = re.compile(r"[\w.-]{1,64}")


class BadMessage(ValueError):
    """A message that cannot be read; `request` is its reference, where it had a readable one."""

    def __init__(self, sentence: str, request: str = "") -> None:
        super().__init__(sentence)
        self.request = request


@dataclass(frozen=True)
class Prompt:
    """What a visitor wrote: free text, or the fields of a template. Exactly one is given."""

    text: str = ""
    inputs: dict[str, str] | None = None


@dataclass(frozen=True)
class Start:
    """Ask in a conversation, or in a new one. `adapter` is a slug, ``base:name``, ``auto``, or empty: the default."""

    request: str
    conversation: UUID | None
    adapter: str
    prompt: Prompt
    sampling: Sampling | None


@dataclass(frozen=True)
class Regenerate:
    """Another answer to the turn that `answer` belongs to."""

    request: str
    answer: UUID
    sampling: Sampling | None


@dataclass(frozen=True)
class Reroute:
    """Let `adapter`, a slug or a base, answer the last turn of a conversation whose partner was chosen for it."""

    request: str
    conversation: UUID
    adapter: str


@dataclass(frozen=True)
class Compare:
    """Set one prompt before two to four columns, each ``slug``, ``slug@digest``, ``base`` or ``base:name``."""

    request: str
    columns: tuple[str, ...]
    prompt: Prompt
    sampling: Sampling | None


@dataclass(frozen=True)
class Retry:
    """Ask one column of a comparison again."""

    request: str
    comparison: UUID
    position: int


@dataclass(frozen=True)
class Resume:
    """Follow an answer from just after `after`, the last cursor seen."""

    answer: UUID
    after: str


@dataclass(frozen=True)
class Stop:
    answer: UUID


@dataclass(frozen=True)
class Ping:
    """Whether anybody is there: answered at once, whatever else goes on."""


Message = Ping | Start | Regenerate | Reroute | Compare | Retry | Resume | Stop


def parse(content: Any) -> Message:
    """Read one message of the page. Raises `BadMessage`."""
    if not isinstance(content, dict):
        raise BadMessage("A message is a JSON object with a type.")
    named = content.get("request")
    request = named if isinstance(named, str) and _REFERENCE.fullmatch(named) else ""
    try:
        return _read(content)
    except ValueError as error:
        raise BadMessage(str(error), request) from error


def _read(content: dict[str, Any]) -> Message:
    if not is_storable(content):
        raise ValueError("The text holds a NUL or half a character; remove it and send the rest.")
    name = content.get("type")
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError(f"Unknown type {str(name)[:40]!r}; known are {', '.join(sorted(_KINDS))}.")
    parts = [field.name for field in fields(_KINDS[name])]
    known = {"type", *parts, *(("text", "inputs") if "prompt" in parts else ())} - {"prompt"}
    if unknown := sorted(str(key)[:40] for key in content.keys() - known):
        raise ValueError(f"A {name} message has no {', '.join(unknown)}.")
    return _KINDS[name](**{part: _PARTS[part](content) for part in parts})


def _request(content: dict[str, Any]) -> str:
    value = content.get("request")
    if not isinstance(value, str) or not _REFERENCE.fullmatch(value):
        raise ValueError("request is missing or malformed.")
    return value


def _columns(content: dict[str, Any]) -> tuple[str, ...]:
    columns = content.get("columns")
    if not isinstance(columns, list) or not MIN_COLUMNS <= len(columns) <= MAX_COLUMNS:
        raise ValueError(f"A comparison has {MIN_COLUMNS} to {MAX_COLUMNS} columns.")
    if not all(isinstance(column, str) and _COLUMN.fullmatch(column) for column in columns):
        raise ValueError("A column is an adapter's slug, slug@digest, base, or base:name.")
    return tuple(columns)


def _position(content: dict[str, Any]) -> int:
    position = content.get("position")
    if type(position) is not int or not 0 <= position < MAX_COLUMNS:
        raise ValueError(f"position is a whole number from 0 to {MAX_COLUMNS - 1}.")
    return position


def _after(content: dict[str, Any]) -> str:
    after = _text(content, "after", 64)
    try:
        position_of(after)
    except ValueError:
        raise ValueError("after is a cursor such as 12-0: the last one that this page was told.") from None
    return after


def _prompt(content: dict[str, Any]) -> Prompt:
    text, inputs = _text(content, "text", MAX_BYTES), content.get("inputs")
    if inputs is None:
        if not text.strip():
            raise ValueError("Write something first.")
        return Prompt(text=text)
    if text:
        raise ValueError("Give text or inputs, not both.")
    if not isinstance(inputs, dict) or not 1 <= len(inputs) <= 32:
        raise ValueError("inputs is an object of 1 to 32 fields.")
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in inputs.items()):
        raise ValueError("Every field of inputs is text.")
    if not any(value.strip() for value in inputs.values()):
        raise ValueError("Fill in the fields first.")
    return Prompt(inputs=inputs)


def _text(content: dict[str, Any], key: str, limit: int) -> str:
    value = content.get(key) or ""
    if not isinstance(value, str) or len(value) > limit:
        raise ValueError(f"{key} is text of at most {limit} characters.")
    return value


def _uuid(content: dict[str, Any], key: str) -> UUID:
    value = content.get(key)
    try:
        return UUID(value) if isinstance(value, str) else UUID("")
    except ValueError:
        raise ValueError(f"{key} is not the id of anything here.") from None


_KINDS: Final[dict[str, type[Message]]] = {
    "ping": Ping,
    "start": Start,
    "regenerate": Regenerate,
    "reroute": Reroute,
    "compare": Compare,
    "retry": Retry,
    "resume": Resume,
    "stop": Stop,
}
_PARTS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "request": _request,
    "conversation": lambda content: None if content.get("conversation") is None else _uuid(content, "conversation"),
    "adapter": lambda content: _text(content, "adapter", 240),
    "prompt": _prompt,
    "sampling": lambda content: sampling.parse(content.get("sampling")),
    "answer": lambda content: _uuid(content, "answer"),
    "columns": _columns,
    "comparison": lambda content: _uuid(content, "comparison"),
    "position": _position,
    "after": _after,
}
"""How each part of a message is read; a prompt comes as its text or its inputs."""
