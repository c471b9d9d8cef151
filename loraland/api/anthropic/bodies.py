"""A message as Anthropic writes it: one object, or named events that tell one content block after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.wire.protocol import Delta, Prompted
from loraland.api.anthropic import errors
from loraland.api.anthropic.asked import MessageRequest
from loraland.api.errors import ApiError
from loraland.api.lorax.spelling import Spelling
from loraland.api.openai.bodies import conclusion
from loraland.api.shape import Answer, Body, Head, Usage
from loraland.api.tools.pieces import Called, Parser, Piece, PlainText
from loraland.api.tools.reading import call_id, parser_of


@dataclass
class Block:
    """One content block: a text, or a call, whose text is its arguments."""

    place: int
    text: str = ""
    name: str = ""
    id: str = ""

    def body(self) -> Body:
        if self.id:
            return {"type": "tool_use", "id": self.id, "name": self.name, "input": _object(self.text)}
        return {"type": "text", "text": self.text}


class Messages:
    """One message, and the events of it."""

    done = ""
    names_events = True

    def __init__(self, asked: MessageRequest) -> None:
        self._parser: Parser = parser_of(asked.offered) if asked.offered else PlainText()
        self._spelling = Spelling(tuple(asked.stop_sequences))
        self._blocks: list[Block] = []

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Body:
        (answer,) = answers
        self._spelling.push(Delta(answer.generation, answer.text, answer.token_ids, answer.logprobs))
        for piece in [*self._parser.push(answer.text), *self._parser.end()]:
            self._read(head, piece)
        content = [block.body() for block in self._blocks] or [{"type": "text", "text": ""}]
        told = {"loraland": conclusion(head, [answer])["loraland"]}
        return self._message(head) | {"content": content, "usage": _usage(answer)} | self._end(answer) | told

    def opening(self, head: Head, index: int) -> list[Body]:
        message = self._message(head) | {"usage": {"input_tokens": 0, "output_tokens": 0}}
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def prompted(self, head: Head, index: int, prompted: Prompted) -> list[Body]:
        return []

    def chunk(self, head: Head, index: int, delta: Delta, at: int) -> list[Body]:
        self._spelling.push(delta)
        return [event for piece in self._parser.push(delta.text) for event in self._told(head, piece)]

    def closing(self, head: Head, answer: Answer) -> list[Body]:
        events = [event for piece in self._parser.end() for event in self._told(head, piece)]
        if not self._blocks:
            self._blocks.append(Block(0))
            events.append(self._begun(self._blocks[0]))
        told = {"loraland": conclusion(head, [answer])["loraland"]}
        last = {"type": "message_delta", "delta": self._end(answer), "usage": _usage(answer)} | told
        return [*events, self._over(self._blocks[-1]), last, {"type": "message_stop"}]

    def tally(self, head: Head, usage: Usage) -> list[Body]:
        return []

    def failure(self, error: ApiError) -> Body:
        return errors.body(error)

    def _read(self, head: Head, piece: Piece) -> Block:
        """The block that `piece` belongs to, with it."""
        if isinstance(piece, Called):
            block = Block(len(self._blocks), name=piece.name, id=call_id(head.generation, 0, piece.index))
            self._blocks.append(block)
            return block
        is_text = not hasattr(piece, "index")
        if not self._blocks or (is_text and self._blocks[-1].id):
            self._blocks.append(Block(len(self._blocks)))
        self._blocks[-1].text += piece.text
        return self._blocks[-1]

    def _told(self, head: Head, piece: Piece) -> list[Body]:
        """The events that tell `piece`."""
        before = self._blocks[-1] if self._blocks else None
        block = self._read(head, piece)
        events = [] if block is before else [*([self._over(before)] if before else []), self._begun(block)]
        if isinstance(piece, Called):
            return events
        kind, name = ("input_json_delta", "partial_json") if block.id else ("text_delta", "text")
        delta = {"type": kind, name: piece.text}
        return [*events, {"type": "content_block_delta", "index": block.place, "delta": delta}]

    def _begun(self, block: Block) -> Body:
        begun = Block(block.place, name=block.name, id=block.id)
        return {"type": "content_block_start", "index": block.place, "content_block": begun.body()}

    def _over(self, block: Block) -> Body:
        return {"type": "content_block_stop", "index": block.place}

    def _message(self, head: Head) -> Body:
        return {
            "id": f"msg_{head.generation}",
            "type": "message",
            "role": "assistant",
            "model": head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _end(self, answer: Answer) -> Body:
        """Why it ended, and by which of the caller's stop strings."""
        stop = self._spelling.stop_of(answer.finished)
        if answer.finished.reason == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if stop:
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        has_called = any(block.id for block in self._blocks)
        return {"stop_reason": "tool_use" if has_called else "end_turn", "stop_sequence": None}


def _usage(answer: Answer) -> dict[str, Any]:
    stats = answer.finished.stats
    return {
        "input_tokens": stats.prompt_tokens,
        "output_tokens": stats.completion_tokens,
        "cache_read_input_tokens": stats.cached_tokens,
        "cache_creation_input_tokens": 0,
    }


def _object(text: str) -> Any:
    """The arguments of a call, which an answer that was cut off leaves unfinished."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}
