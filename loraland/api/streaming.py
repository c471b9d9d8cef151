"""A call's answer as server-sent events: the pieces of its choices between each other, as they come.

Where there is one choice, each event bears the cursor behind which `loraland.api.resuming` goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import chain
from typing import Any, Final

from django.http import StreamingHttpResponse

from inference.wire.protocol import UNINVOKED, Delta, Failed, Finished, Progress, Prompted
from loraland.api.call import Call, Reader, Told
from loraland.api.errors import PATH, ApiError, api_error
from loraland.api.shape import Answer, Body, Head, Shape, Usage, usage_of
from loraland.generations import reading
from loraland.generations.read_ahead import ReadAhead

PATIENCE_SECONDS: Final = 2.0
"""How long a stream waits for its first event before it begins: an early failure gets a status of its own."""
KEEP_ALIVE_SECONDS: Final = 10.0
KEEP_ALIVE: Final = ": waiting\n\n"
LONG: Final = 16 * 1024
"""What has more characters is not kept back to be sent with what comes next."""
_JSON: Final = json.JSONEncoder(separators=(",", ":"))


class Events(StreamingHttpResponse):
    """A stream whose pieces come as they are sent: Django makes bytes of each by two more generators."""

    def __init__(self, pieces: AsyncGenerator[bytes], **more: Any) -> None:
        super().__init__(pieces, **more)
        self._pieces = pieces

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._pieces


async def streamed(call: Call, head: Head, shape: Shape, reader: Reader) -> StreamingHttpResponse:
    """The answer as server-sent events. Raises `ApiError` when it fails before anything was sent."""
    events = ReadAhead(call.events())
    try:
        stream = _Stream(call, head, shape, reader)
        first = await _first_words(events, stream, _patience(call))
        if first and isinstance(first[0].event, Failed):
            raise call.error_of(first[0])
    except BaseException:
        await events.aclose()
        raise
    response = Events(_sse(events, first, stream), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    if stream.dropped_turns:
        response["X-LoRALand-Dropped-Turns"] = str(stream.dropped_turns)
    if stream.is_uninvoked:
        response["X-LoRALand-Not-Invoked"] = "1"
    return response


def _patience(call: Call) -> float:
    """Seconds before a stream begins without a word. By when its first token is wanted, it is there or refused."""
    return max(PATIENCE_SECONDS, call.choices[0].sampling.first_token_within + 1)


async def _first_words(events: ReadAhead[Told], stream: _Stream, patience: float) -> list[Told]:
    """What is told first beside progress, which is noted; nothing where that takes longer than a caller waits."""
    while told := await events.next(patience):
        for each in told:
            stream.note(each)
        if words := [each for each in told if not isinstance(each.event, Progress)]:
            return words
    return []


async def _sse(events: ReadAhead[Told], told: list[Told], stream: _Stream) -> AsyncGenerator[bytes]:
    """What is told together is sent together: each piece that is sent wakes its reader."""
    async with aclosing(events):
        text = "".join(stream.opening())
        try:
            while True:
                for line in chain.from_iterable(map(stream.lines, told)) if told else [KEEP_ALIVE]:
                    text += line
                    if len(text) > LONG:
                        yield text.encode()
                        text = ""
                if stream.is_over:
                    break
                if text:
                    yield text.encode()
                text, told = "", await events.next(KEEP_ALIVE_SECONDS)
        except Exception as error:
            text += stream.failure(api_error(error, PATH))
        yield (text + stream.done).encode()


class _Stream:
    """The lines of one stream, and how far each choice has come."""

    def __init__(self, call: Call, head: Head, shape: Shape, reader: Reader) -> None:
        self._head, self._shape, self._with_usage = head, shape, reader.with_usage
        self._call, self._num_choices = call, len(call.choices)
        self._at: Counter[int] = Counter({0: reader.num_chars})
        self._opened: set[int] = set() if reader.after == reading.START else {0}
        self._ended: list[Answer] = []
        self._has_failed = False
        self._with_every_usage = reader.with_every_usage
        self._num_prompt: dict[int, int] = {}
        self._num_told = 0
        self.dropped_turns = 0
        """How many turns are known to have been left out of the prompt."""
        self.is_uninvoked = False
        """Whether the base is known to answer a prompt in place of an activated adapter."""

    @property
    def is_over(self) -> bool:
        return self._has_failed or len(self._ended) == self._num_choices

    @property
    def done(self) -> str:
        return self._shape.done

    def opening(self) -> Iterator[str]:
        """What is told before there is anything of an answer: that one begins."""
        return self._lines(self._opening(0))

    def lines(self, told: Told) -> Iterator[str]:
        """What `told` says, and behind the last choice's end what all of them cost."""
        if isinstance(told.event, Progress):
            return self.note(told)
        if self.is_over:
            return
        yield from self._lines(self._opening(told.choice.index))
        if isinstance(told.event, Delta):
            self._num_told += len(told.event.token_ids)
            yield from self._lines(self._chunk(told.choice.index, told.event), self._cursor(told))
        elif isinstance(told.event, Prompted):
            pieces = self._shape.prompted(self._head, told.choice.index, told.event)
            yield from self._lines(pieces, self._cursor(told))
        elif isinstance(told.event, Finished):
            yield from self._closing(told, told.event)
        elif isinstance(told.event, Failed):
            yield self.failure(self._call.error_of(told))

    def note(self, told: Told) -> None:
        """Remember what a choice tells of its prompt, if `told` says so."""
        if not isinstance(told.event, Progress):
            return
        self._num_prompt[told.choice.prompt] = told.event.prompt_tokens
        self.dropped_turns = max(self.dropped_turns, told.event.dropped_turns)
        self.is_uninvoked = self.is_uninvoked or told.event.invoked_at == UNINVOKED

    def failure(self, error: ApiError) -> str:
        self._has_failed = True
        return self._event(self._shape.failure(error))

    def _opening(self, index: int) -> list[Body]:
        if index in self._opened:
            return []
        self._opened.add(index)
        return self._shape.opening(self._head, index)

    def _chunk(self, index: int, delta: Delta) -> list[Body]:
        at = self._at[index]
        self._at[index] += len(delta.text)
        return self._shape.chunk(self._head, index, delta, at)

    def _closing(self, told: Told, finished: Finished) -> Iterator[str]:
        answer = Answer(
            told.choice.index, told.choice.prompt, told.generation.wire_id, finished, asked=told.choice.index
        )
        self._ended.append(answer)
        yield from self._lines(self._shape.closing(self._head, answer))
        if self.is_over and self._with_usage:
            yield from map(self._event, self._shape.tally(self._head, usage_of(self._ended)))

    def _cursor(self, told: Told) -> str:
        """Several choices have no common place to go on from."""
        return reading.START if self._num_choices > 1 else told.cursor

    def _lines(self, bodies: list[Body], cursor: str = reading.START) -> Iterator[str]:
        """A stream that will end with its usage says in every other chunk that it is not there yet."""
        for number, body in enumerate(bodies, 1):
            body = {**body, "usage": self._usage()} if self._with_usage or self._with_every_usage else body
            yield self._event(body, cursor if number == len(bodies) else reading.START)

    def _usage(self) -> Any:
        """What the answer has cost so far, as the dialect writes it; None where it is told at the end alone."""
        if not (self._with_every_usage and self._num_prompt):
            return None
        tally = self._shape.tally(self._head, Usage(sum(self._num_prompt.values()), self._num_told, 0))
        return next((body["usage"] for body in tally if "usage" in body), None)

    def _event(self, body: Body, cursor: str = reading.START) -> str:
        id = "" if cursor == reading.START else f"id: {cursor}\n"
        name = f"event: {body['type']}\n" if self._shape.names_events else ""
        return f"{id}{name}data: {_JSON.encode(body)}\n\n"
