"""A response as OpenAI writes it: one object, or events that are named and numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.wire.protocol import Delta, Prompted, TokenLogprob
from loraland.api.errors import ApiError
from loraland.api.openai.bodies import conclusion, told_tokens
from loraland.api.openai.held import HeldTokens, all_told
from loraland.api.responses.asked import ResponseRequest
from loraland.api.shape import Answer, Body, Head, Usage
from loraland.api.tools.pieces import Arguments, Called, Parser, Piece, PlainText
from loraland.api.tools.reading import call_id, parser_of


@dataclass
class Item:
    """One item of the output: a message, or a call. `place` is its number among them."""

    place: int
    id: str
    text: str = ""
    name: str = ""
    call_id: str = ""
    logprobs: list[Body] = field(default_factory=list)

    @property
    def is_call(self) -> bool:
        return bool(self.call_id)

    def body(self, status: str) -> Body:
        if self.is_call:
            about = {"call_id": self.call_id, "name": self.name, "arguments": self.text}
            return {"type": "function_call", "id": self.id, "status": status} | about
        content = [] if status == "in_progress" else [_part(self.text, self.logprobs)]
        return {"type": "message", "id": self.id, "status": status, "role": "assistant", "content": content}


class Responses:
    """One response, and the events of it."""

    done = ""
    names_events = True

    def __init__(self, asked: ResponseRequest) -> None:
        self._asked = asked
        self._parser: Parser = parser_of(asked.offered) if asked.offered else PlainText()
        self._items: list[Item] = []
        self._number = 0
        self._held = HeldTokens()

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Body:
        (answer,) = answers
        for piece in [*self._parser.push(answer.text), *self._parser.end()]:
            self._read(head, piece)
        if not self._items:
            self._begin(head)
        self._tell(all_told(answer.logprobs, len(answer.text), answer.finished.reason))
        return self._ended(head, answer)

    def opening(self, head: Head, index: int) -> list[Body]:
        response = {"response": self._response(head, "in_progress")}
        return [self._event("response.created", response), self._event("response.in_progress", response)]

    def prompted(self, head: Head, index: int, prompted: Prompted) -> list[Body]:
        return []

    def chunk(self, head: Head, index: int, delta: Delta, at: int) -> list[Body]:
        tokens = self._held.push(delta.logprobs, at + len(delta.text))
        return [event for piece in self._parser.push(delta.text) for event in self._told(head, piece, tokens)]

    def closing(self, head: Head, answer: Answer) -> list[Body]:
        events = [event for piece in self._parser.end() for event in self._told(head, piece)]
        if not self._items:
            events += self._added(self._begin(head))
        rest = self._tell(self._held.rest(answer.finished.reason))
        events += [self._delta(self._items[-1], "", rest)] if rest else []
        events += self._over(self._items[-1], _status(answer))
        response = self._ended(head, answer)
        return [*events, self._event(f"response.{response['status']}", {"response": response})]

    def tally(self, head: Head, usage: Usage) -> list[Body]:
        return []

    def failure(self, error: ApiError) -> Body:
        return self._event("error", {"code": error.code, "message": error.message, "param": error.param})

    def _read(self, head: Head, piece: Piece) -> Item:
        """The item that `piece` belongs to, with it."""
        if isinstance(piece, Called):
            return self._begin(head, piece)
        if isinstance(piece, Arguments):
            item = [item for item in self._items if item.is_call][piece.index]
        else:
            is_new = not self._items or self._items[-1].is_call
            item = self._begin(head) if is_new else self._items[-1]
        item.text += piece.text
        return item

    def _begin(self, head: Head, called: Called | None = None) -> Item:
        place = len(self._items)
        if called is None:
            item = Item(place, f"msg_{head.generation}_{place}")
        else:
            id = call_id(head.generation, 0, called.index)
            item = Item(place, f"fc_{head.generation}_{place}", name=called.name, call_id=id)
        self._items.append(item)
        return item

    def _tell(self, tokens: Sequence[TokenLogprob]) -> list[Body]:
        """How likely `tokens` of the last item were, where that is asked for."""
        told = told_tokens(tokens) if self._asked.tells_logprobs else []
        self._items[-1].logprobs += told
        return told

    def _told(self, head: Head, piece: Piece, tokens: Sequence[TokenLogprob] = ()) -> list[Body]:
        """The events that tell `piece`, which has `tokens`."""
        before = self._items[-1] if self._items else None
        item = self._read(head, piece)
        events = [] if item is before or before is None else self._over(before, "completed")
        events += self._added(item) if item is not before else []
        if isinstance(piece, Called):
            return events
        if item.is_call:
            return [*events, self._at(item, "response.function_call_arguments.delta", {"delta": piece.text})]
        return [*events, self._delta(item, piece.text, self._tell(tokens))]

    def _delta(self, item: Item, text: str, tokens: list[Body]) -> Body:
        told = {"content_index": 0, "delta": text, "logprobs": tokens}
        return self._at(item, "response.output_text.delta", told)

    def _added(self, item: Item) -> list[Body]:
        about = {
            "output_index": item.place,
            "item": item.body("in_progress") | ({"arguments": ""} if item.is_call else {}),
        }
        events = [self._event("response.output_item.added", about)]
        if not item.is_call:
            part = {"content_index": 0, "part": _part("")}
            events.append(self._at(item, "response.content_part.added", part))
        return events

    def _over(self, item: Item, status: str) -> list[Body]:
        """The events that end an item."""
        if item.is_call:
            told = {"arguments": item.text, "name": item.name}
            events = [self._at(item, "response.function_call_arguments.done", told)]
        else:
            text = {"content_index": 0, "text": item.text, "logprobs": item.logprobs}
            part = {"content_index": 0, "part": _part(item.text, item.logprobs)}
            events = [
                self._at(item, "response.output_text.done", text),
                self._at(item, "response.content_part.done", part),
            ]
        about = {"output_index": item.place, "item": item.body(status)}
        return [*events, self._event("response.output_item.done", about)]

    def _at(self, item: Item, kind: str, about: Body) -> Body:
        return self._event(kind, {"item_id": item.id, "output_index": item.place} | about)

    def _event(self, kind: str, about: Body) -> Body:
        event = {"type": kind, "sequence_number": self._number} | about
        self._number += 1
        return event

    def _ended(self, head: Head, answer: Answer) -> Body:
        """The response as it is at its end."""
        status, stats = _status(answer), answer.finished.stats
        items = [item.body(status if item is self._items[-1] else "completed") for item in self._items]
        own = {name: value for name, value in stats.defaults.items() if name in ("temperature", "top_p")}
        response = self._response(head, status) | own | {"output": items}
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["usage"] = {
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {"cached_tokens": stats.cached_tokens},
            "output_tokens": stats.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": stats.prompt_tokens + stats.completion_tokens,
        }
        return response | {"loraland": conclusion(head, [answer])["loraland"]}

    def _response(self, head: Head, status: str) -> Body:
        asked = self._asked
        return {
            "id": f"resp_{head.generation}",
            "object": "response",
            "created_at": head.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": head.model,
            "output": [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": asked.store,
            "temperature": asked.temperature,
            "text": asked.text or {"format": {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": _told_tools(asked.tools),
            "top_p": asked.top_p,
            "truncation": asked.truncation,
            "usage": None,
            "user": None,
        }


def _told_tools(tools: Any) -> list[Any]:
    """The tools as they were asked, with what a client may read of each."""
    return [{"strict": False, "description": None, "parameters": {}} | tool for tool in tools or ()]


def _part(text: str, logprobs: Sequence[Body] = ()) -> Body:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finished.reason == "length" else "completed"
