"""Calls of tools in a chat's answer: in a message, and as deltas that tell the name first."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from loraland.api.shape import Body
from loraland.api.tools.asked import Tools
from loraland.api.tools.pieces import Called, Parser, Piece, Words, read_whole
from loraland.api.tools.reading import call_id, parser_of


class ChatCalls:
    """What the answers of one call are read and told by. `told` is what its reader has of the first answer already.

    With `is_old` there is one call at most, told as a ``function_call``.
    """

    def __init__(self, tools: Tools, is_old: bool = False, told: str = "") -> None:
        self._tools, self._is_old = tools, is_old
        self._parsers: defaultdict[int, Parser] = defaultdict(lambda: parser_of(tools))
        self._has_called: set[int] = set()
        self._note(0, self._parsers[0].push(told))

    def message(self, generation: str, index: int, text: str) -> Body:
        """The whole message of a choice."""
        read = read_whole(parser_of(self._tools), text)
        message: Body = {"role": "assistant", "content": read.text or None, "refusal": None}
        if not read.calls:
            return message | {"content": read.text}
        self._has_called.add(index)
        functions = [{"name": call.name, "arguments": call.arguments} for call in read.calls]
        if self._is_old:
            return message | {"function_call": functions[0]}
        calls = [
            {"id": call_id(generation, index, number), "type": "function", "function": function}
            for number, function in enumerate(functions)
        ]
        return message | {"tool_calls": calls}

    def deltas(self, generation: str, index: int, text: str) -> list[Body]:
        """What the next piece of a choice's text tells."""
        return [self._delta(generation, index, piece) for piece in self._note(index, self._parsers[index].push(text))]

    def last_deltas(self, generation: str, index: int) -> list[Body]:
        """What was held back of a choice's text."""
        return [self._delta(generation, index, piece) for piece in self._note(index, self._parsers[index].end())]

    def reason(self, index: int, reason: str) -> str:
        """Why a choice ended, which had `reason` to."""
        if reason != "stop" or index not in self._has_called:
            return reason
        return "function_call" if self._is_old else "tool_calls"

    def _note(self, index: int, pieces: list[Piece]) -> list[Piece]:
        if any(isinstance(piece, Called) for piece in pieces):
            self._has_called.add(index)
        return pieces

    def _delta(self, generation: str, index: int, piece: Piece) -> Body:
        if isinstance(piece, Words):
            return {"content": piece.text}
        call: Body = {"index": piece.index}
        if isinstance(piece, Called):
            call |= {"id": call_id(generation, index, piece.index), "type": "function"}
            function: dict[str, Any] = {"name": piece.name, "arguments": ""}
        else:
            function = {"arguments": piece.text}
        return {"function_call": function} if self._is_old else {"tool_calls": [call | {"function": function}]}
