"""Reading answers that a schema of `loraland.api.tools.forcing` has forced into calls, as the arguments come."""

from __future__ import annotations

import json
import re
from typing import Final

from loraland.api.tools.pieces import Arguments, Called, Piece, Words

_HEAD: Final = re.compile(r'[\s\[,}]*+\{\s*+"name"\s*+:\s*+("(?:[^"\\]|\\.)*+")\s*+,\s*+"arguments"\s*+:\s*+(?=\{)')
"""What stands before the arguments of a call, and behind those of the one before it."""


class OneFunction:
    """An answer that consists of the arguments of the function `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._has_begun = False

    def push(self, text: str) -> list[Piece]:
        if self._has_begun:
            return [Arguments(0, text)] if text else []
        text = text.lstrip()
        if not text:
            return []
        self._has_begun = True
        return [Called(0, self._name), Arguments(0, text)]

    def end(self) -> list[Piece]:
        return []


class ToldFunctions:
    """An answer of one call, or of a list of calls, each of which tells its name before its arguments."""

    def __init__(self) -> None:
        self._buffer = ""
        self._num_calls = 0
        self._span: Span | None = None

    def push(self, text: str) -> list[Piece]:
        self._buffer += text
        pieces: list[Piece] = []
        while self._buffer:
            if self._span is None:
                head = _HEAD.match(self._buffer)
                if head is None:
                    break
                pieces.append(Called(self._num_calls, json.loads(head[1])))
                self._buffer, self._span = self._buffer[head.end() :], Span()
                self._num_calls += 1
            size = self._span.push(self._buffer)
            pieces.append(Arguments(self._num_calls - 1, self._buffer[:size]))
            self._buffer = self._buffer[size:]
            if not self._span.is_over:
                break
            self._span = None
        return pieces

    def end(self) -> list[Piece]:
        return [] if self._num_calls or not self._buffer.strip() else [Words(self._buffer)]


class Span:
    """Follows one JSON object to its last brace."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = self._is_escaped = False
        self.is_over = False

    def push(self, text: str) -> int:
        """How many characters of `text` belong to the object."""
        for number, character in enumerate(text, 1):
            self._take(character)
            if self.is_over:
                return number
        return len(text)

    def _take(self, character: str) -> None:
        if self._in_text:
            self._in_text = self._is_escaped or character != '"'
            self._is_escaped = character == "\\" and not self._is_escaped
        elif character == '"':
            self._in_text = True
        else:
            self._depth += (character in "{[") - (character in "}]")
            self.is_over = self._depth == 0
