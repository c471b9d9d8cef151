"""Finding calls in answers that may hold some, in the forms that models were taught.

Hermes and Qwen write ``<tool_call>{…}</tool_call>``, Mistral ``[TOOL_CALLS]`` and a list, Granite ``<|tool_call|>`` and
a list, Llama 3.1 a bare object or ``<|python_tag|>`` and an object. Text is held back only while it may begin a call,
and what turns out to be none stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from loraland.api.tools.forced import Span
from loraland.api.tools.pieces import Arguments, Called, Piece, Words

OPENERS: Final = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>")
CLOSER: Final = "</tool_call>"
KEYS: Final = ('"type":"function"', '"function":', '"arguments":{', '"parameters":{')
BETWEEN: Final = re.compile(rf"(?:\s|;|{CLOSER})*")
_NAMED: Final = re.compile(r"\s*+([\w-]++)\s*+(?:\[ARGS\]\s*+)?(?=\{)")
"""Newer Mistrals write the name before an object of arguments."""
_JSON: Final = json.JSONDecoder(strict=False)

Found = tuple[list[tuple[str, str]], int]
"""Calls by name and arguments, and the number of characters that they take."""
NONE: Final[Found] = ([], 0)


class Auto:
    """An answer that may call functions with these `names`, `at_most` so many."""

    def __init__(self, names: Sequence[str], at_most: int | None = None) -> None:
        self._names, self._at_most = names, at_most
        keys = [*(f'"name":"{name}"' for name in names), *KEYS]
        self._heads = [opening + key for opening in ("{", "[{") for key in keys]
        self._buffer = ""
        self._num_calls = 0
        self._may_be_bare = True
        """Whether nothing but calls has been read: only there is a bare object one."""

    def push(self, text: str) -> list[Piece]:
        self._buffer += text
        return self._read(is_end=False)

    def end(self) -> list[Piece]:
        return self._read(is_end=True)

    def _read(self, is_end: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._buffer:
            if self._num_calls == self._at_most:
                self._buffer = ""
                break
            step = self._step(is_end)
            pieces += step or []
            if step is None:
                break
        return pieces

    def _step(self, is_end: bool) -> list[Piece] | None:
        """The next pieces; None where more must come first."""
        if self._may_be_bare:
            blank = self._skip_blank()
            body = self._buffer[blank:]
            if not body or (self._num_calls and CLOSER.startswith(body)):
                return self._words(len(self._buffer)) if is_end and not self._num_calls else None
            found = self._bare(body, is_end) if body[0] in "{[" else NONE
            if found is None:
                return None
            if found[0]:
                return self._calls(found, blank)
        return self._wrapped_or_words(is_end)

    def _skip_blank(self) -> int:
        """Where the text begins; of what parts calls nothing is left."""
        if not self._num_calls:
            return len(self._buffer) - len(self._buffer.lstrip())
        between = BETWEEN.match(self._buffer)
        self._buffer = self._buffer[between.end() if between else 0 :]
        return 0

    def _wrapped_or_words(self, is_end: bool) -> list[Piece] | None:
        places = [(place, opener) for opener in OPENERS if (place := self._buffer.find(opener)) >= 0]
        if not places:
            size = len(self._buffer) if is_end else len(self._buffer) - self._num_held()
            return self._words(size) if size else None
        place, opener = min(places)
        if before := len(self._buffer[:place].rstrip()):
            return self._words(before)
        found = self._wrapped(self._buffer[place + len(opener) :], is_end)
        if found is None:
            return None
        return self._calls(found, place + len(opener)) if found[0] else self._words(place + len(opener))

    def _num_held(self) -> int:
        """How long the end of the text is that may begin a call, with the blanks before it."""
        longest = min(max(map(len, OPENERS)), len(self._buffer))
        ends = (self._buffer[-size:] for size in range(longest, 0, -1))
        end = next((end for end in ends if any(opener.startswith(end) for opener in OPENERS)), "")
        return len(self._buffer) - len(self._buffer.removesuffix(end).rstrip())

    def _words(self, size: int) -> list[Piece]:
        text, self._buffer = self._buffer[:size], self._buffer[size:]
        self._may_be_bare = False
        return [Words(text)]

    def _calls(self, found: Found, offset: int) -> list[Piece]:
        calls, size = found
        self._buffer = self._buffer[offset + size :]
        self._may_be_bare = True
        left = None if self._at_most is None else self._at_most - self._num_calls
        pieces: list[Piece] = []
        for name, arguments in calls[:left]:
            pieces += [Called(self._num_calls, name), Arguments(self._num_calls, arguments)]
            self._num_calls += 1
        return pieces

    def _bare(self, body: str, is_end: bool) -> Found | None:
        """The calls with which `body` begins, `NONE` where it begins none; None where that is not clear yet."""
        compact = "".join(body[:1000].split())
        if not any(compact.startswith(head) or head.startswith(compact) for head in self._heads):
            return NONE
        value, size = _value(body)
        if not size:
            return NONE if is_end else None
        calls = calls_in(value)
        return (calls, size) if calls and all(name in self._names for name, _ in calls) else NONE

    def _wrapped(self, body: str, is_end: bool) -> Found | None:
        """As `_bare`, for what stands behind an opener."""
        named = _NAMED.match(body)
        start = named.end() if named else len(body) - len(body.lstrip())
        value, size = _value(body[start:])
        if size:
            calls = calls_in({"name": named[1], "arguments": value} if named else value)
            return (calls, start + size) if calls else NONE
        return NONE if is_end or _is_none(body[start:]) else None


def _is_none(body: str) -> bool:
    """Whether what stands behind an opener, and is no call yet, becomes none."""
    if body[:1] in ("{", "["):
        span = Span()
        span.push(body)
        return span.is_over
    return CLOSER in body or not re.match(r"\w|$", body)


def calls_in(value: Any) -> list[tuple[str, str]]:
    """The calls that a JSON value holds, by name and arguments; none where a part of it is no call."""
    calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if all(calls) else []


def _call(value: Any) -> tuple[str, str] | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return None
    name = value.get("name", value.get("function"))
    arguments = next((value[key] for key in ("arguments", "parameters") if key in value), None)
    if isinstance(arguments, str):
        arguments = _value(arguments)[0]
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)


def _value(text: str) -> tuple[Any, int]:
    """The JSON object or list with which `text` begins and its length, 0 where it is not there whole."""
    if text[:1] not in ("{", "["):
        return None, 0
    try:
        return _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0
