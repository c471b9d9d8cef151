"""What a page may say over its socket: one frozen class a message, read strictly and refused with a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from inference.adapters.storable import is_storable
from inference.wire.contract import position_of
from inference.wire.protocol import Sampling
from loraland.catalogue.versions import NAME
from loraland.playground import sampling

MAX_BYTES: Final = 64 * 1024
MAX_COLUMNS: Final = 4
MIN_COLUMNS: Final = 2

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
    """Ask in a conversation, or in a new one. `adapter` is a slug, empty for the base."""

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
class Compare:
    """Set one prompt before two to four columns, each ``slug``, ``slug@digest`` or ``base``."""

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


Message = Ping | Start | Regenerate | Compare | Retry | Resume | Stop


def parse(content: Any) -> Message:
    """Read one message of the page. Raises `BadMessage`."""
    if not isinstance(content, dict):
        raise BadMessage("A message is a JSON object with a type.")
    if not is_storable(content):
        raise BadMessage("The text holds a NUL or half a character; remove it and send the rest.", _named(content))
    kind = content.get("type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise BadMessage(f"Unknown type {str(kind)[:40]!r}; known are {', '.join(sorted(_READERS))}.", _named(content))
    keys, read = _READERS[kind]
    if unknown := sorted(str(key)[:40] for key in content.keys() - keys - {"type"}):
        raise BadMessage(f"A {kind} message has no {', '.join(unknown)}.", _named(content))
    try:
        return read(content)
    except ValueError as error:
        raise BadMessage(str(error), _named(content)) from error


def _named(content: dict[str, Any]) -> str:
    request = content.get("request")
    return request if isinstance(request, str) and _REFERENCE.fullmatch(request) else ""


def _start(content: dict[str, Any]) -> Start:
    conversation = content.get("conversation")
    return Start(
        request=_match(content, "request", _REFERENCE),
        conversation=None if conversation is None else _uuid(content, "conversation"),
        adapter=_text(content, "adapter", 80),
        prompt=_prompt(content),
        sampling=sampling.parse(content.get("sampling")),
    )


def _regenerate(content: dict[str, Any]) -> Regenerate:
    chosen = sampling.parse(content.get("sampling"))
    return Regenerate(_match(content, "request", _REFERENCE), _uuid(content, "answer"), chosen)


def _compare(content: dict[str, Any]) -> Compare:
    columns = content.get("columns")
    if not isinstance(columns, list) or not MIN_COLUMNS <= len(columns) <= MAX_COLUMNS:
        raise ValueError(f"A comparison has {MIN_COLUMNS} to {MAX_COLUMNS} columns.")
    if not all(isinstance(column, str) and NAME.fullmatch(column) for column in columns):
        raise ValueError("A column is an adapter's slug, slug@digest, or base.")
    return Compare(
        request=_match(content, "request", _REFERENCE),
        columns=tuple(columns),
        prompt=_prompt(content),
        sampling=sampling.parse(content.get("sampling")),
    )


def _retry(content: dict[str, Any]) -> Retry:
    position = content.get("position")
    if type(position) is not int or not 0 <= position < MAX_COLUMNS:
        raise ValueError(f"position is a whole number from 0 to {MAX_COLUMNS - 1}.")
    return Retry(_match(content, "request", _REFERENCE), _uuid(content, "comparison"), position)


def _resume(content: dict[str, Any]) -> Resume:
    after = _text(content, "after", 64)
    try:
        position_of(after)
    except ValueError:
        raise ValueError("after is a cursor such as 12-0: the last one that this page was told.") from None
    return Resume(_uuid(content, "answer"), after)


def _stop(content: dict[str, Any]) -> Stop:
    return Stop(_uuid(content, "answer"))


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


def _match(content: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{key} is missing or malformed.")
    return value


def _uuid(content: dict[str, Any], key: str) -> UUID:
    value = content.get(key)
    try:
        return UUID(value) if isinstance(value, str) else UUID("")
    except ValueError:
        raise ValueError(f"{key} is not the id of anything here.") from None


_READERS: Final[dict[str, tuple[set[str], Callable[[dict[str, Any]], Message]]]] = {
    "ping": (set(), lambda content: Ping()),
    "start": ({"request", "conversation", "adapter", "text", "inputs", "sampling"}, _start),
    "regenerate": ({"request", "answer", "sampling"}, _regenerate),
    "compare": ({"request", "columns", "text", "inputs", "sampling"}, _compare),
    "retry": ({"request", "comparison", "position"}, _retry),
    "resume": ({"answer", "after"}, _resume),
    "stop": ({"answer"}, _stop),
}
