"""What an answer with tools comes apart into: words, and calls of which the name comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Called:
    """The beginning of the call with the number `index`."""

    index: int
    name: str


@dataclass(frozen=True)
class Arguments:
    """A piece of the arguments of a call, which are JSON once they are whole."""

    index: int
    text: str


Piece = Words | Called | Arguments


class Parser(Protocol):
    """Reads one answer as it comes. The pieces joined are the same however the text was cut."""

    def push(self, text: str) -> list[Piece]: ...

    def end(self) -> list[Piece]:
        """What was held back, as it might have been the beginning of a call."""


class PlainText:
    """The parser of an answer that calls nothing."""

    def push(self, text: str) -> list[Piece]:
        return [Words(text)] if text else []

    def end(self) -> list[Piece]:
        return []


@dataclass
class Call:
    name: str
    arguments: str = ""


@dataclass
class Read:
    """A whole answer: its words, and its calls in their order."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)


def read_whole(parser: Parser, text: str) -> Read:
    return joined([*parser.push(text), *parser.end()])


def joined(pieces: Sequence[Piece]) -> Read:
    read = Read()
    for piece in pieces:
        if isinstance(piece, Words):
            read.text += piece.text
        elif isinstance(piece, Called):
            read.calls.append(Call(piece.name))
        else:
            read.calls[piece.index].arguments += piece.text
    return read
