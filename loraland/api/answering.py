"""One answer on its way to a program, whole or streamed. Each event of a stream bears the cursor behind which
`loraland.api.resuming` goes on. A caller who hangs up stops the answer, unless it asked to have it stored.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from inference.wire.contract import WireError
from inference.wire.protocol import Delta, Event, Failed, Finished, TokenLogprob
from loraland.api.authentication import visitor_of
from loraland.api.entries import offered
from loraland.api.errors import UNAVAILABLE, ApiError, of_failure
from loraland.api.openai.bodies import Head, Shape
from loraland.api.openai.chat import ChatCompletion
from loraland.api.openai.completion import Completion
from loraland.catalogue.composition import named
from loraland.generations import reading
from loraland.generations.models import Generation
from loraland.generations.read_ahead import ReadAhead
from loraland.generations.start import start
from loraland.generations.stop import stop

Response = HttpResponse | StreamingHttpResponse
Told = tuple[str, Event]
"""An event and its cursor, `reading.START` for one that has none of its own."""

PATIENCE_SECONDS: Final = 2.0
"""How long a stream waits for its first event before it begins: an early failure gets a status of its own."""
KEEP_ALIVE_SECONDS: Final = 10.0
KEEP_ALIVE: Final = ": waiting\n\n"
DONE: Final = "data: [DONE]\n\n"
_JSON: Final = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True)
class Reader:
    """What a caller wants of an answer, and what it has: all up to the cursor `after`, which is `num_chars` long.

    With `stops` nobody is to come back for the answer once this caller has gone.
    """

    stops: bool
    with_usage: bool = False
    after: str = reading.START
    num_chars: int = 0


async def answer(
    request: HttpRequest, asked: ChatCompletion | Completion, shape: Shape
) -> HttpResponse | StreamingHttpResponse:
    """Answer one call. Raises `ApiError` and `Refused` for what cannot be answered."""
    visitor = visitor_of(request)
    version = await sync_to_async(named)(asked.model, offered(visitor))
    generation = await start(visitor, Generation.Source.API, version, **asked.source(), sampling=asked.sampling())
    digest = version.digest if version else ""
    created = int(generation.created.timestamp())
    head = Head(generation.wire_id, asked.model, created, digest, generation.components)
    reader = Reader(stops=not asked.store, with_usage=asked.include_usage)
    return await respond(generation, head, shape, reader, asked.stream)


async def respond(generation: Generation, head: Head, shape: Shape, reader: Reader, stream: bool) -> Response:
    """The answer, streamed or as one body."""
    if stream:
        return await streamed(generation, head, shape, reader)
    return JsonResponse(await whole(generation, head, shape, reader))


async def whole(generation: Generation, head: Head, shape: Shape, reader: Reader) -> dict[str, Any]:
    """The complete answer as one body."""
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    async with aclosing(_followed(generation, reader)) as events:
        async for _, event in events:
            if isinstance(event, Delta):
                texts.append(event.text)
                logprobs.extend(event.logprobs)
            elif isinstance(event, Finished):
                return shape.whole(head, "".join(texts), logprobs, event)
            elif isinstance(event, Failed):
                raise of_failure(event)
    raise AssertionError("an answer ended without a terminal event")


async def streamed(generation: Generation, head: Head, shape: Shape, reader: Reader) -> StreamingHttpResponse:
    """The answer as server-sent events. Raises `ApiError` when it fails before anything was sent."""
    events = ReadAhead(_followed(generation, reader))
    try:
        first = await events.next(PATIENCE_SECONDS)
        if first and isinstance(first[1], Failed):
            raise of_failure(first[1])
    except BaseException:
        await events.aclose()
        raise
    response = StreamingHttpResponse(_sse(events, first, head, shape, reader), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


async def _followed(generation: Generation, reader: Reader) -> AsyncGenerator[Told]:
    """The answer's deltas and its terminal event. A caller who leaves before the end may stop it; a fault of ours, or
    of Redis, does not: the caller can come back for it."""
    is_over, num_chars = False, reader.num_chars
    try:
        async with aclosing(reading.events(generation, reader.after)) as events:
            async for cursor, event in events:
                is_over = isinstance(event, Finished | Failed)
                if isinstance(event, Delta):
                    # The row has no finer steps than the whole text, of which the caller has the beginning.
                    event = replace(event, text=event.text[num_chars:]) if cursor == reading.START else event
                    num_chars += len(event.text)
                if is_over or isinstance(event, Delta):
                    yield cursor, event
    except (GeneratorExit, asyncio.CancelledError):
        if reader.stops and not is_over:
            await stop(generation)
        raise


async def _sse(
    events: ReadAhead[Told], read: Told | None, head: Head, shape: Shape, reader: Reader
) -> AsyncIterator[str]:
    with_usage = reader.with_usage
    async with aclosing(events):
        if (opening := shape.opening(head)) and reader.after == reading.START:
            yield _data(opening, with_usage)
        try:
            at = reader.num_chars
            while True:
                cursor, event = read or ("", None)
                if event is None:
                    yield KEEP_ALIVE
                elif isinstance(event, Delta):
                    if event.text or event.logprobs:
                        yield _data(shape.chunk(head, event.text, event.logprobs, at), with_usage, cursor)
                    at += len(event.text)
                else:
                    break
                read = await events.next(KEEP_ALIVE_SECONDS)
            for line in _ending(event, head, shape, with_usage):
                yield line
        except WireError:
            yield _data(ApiError(503, "unavailable", UNAVAILABLE).body(), False)
        yield DONE


def _ending(event: Event, head: Head, shape: Shape, with_usage: bool) -> list[str]:
    if isinstance(event, Failed):
        return [_data(of_failure(event).body(), False)]
    assert isinstance(event, Finished)
    lines = [_data(shape.closing(head, event), with_usage)]
    return [*lines, _data(shape.tally(head, event.stats), False)] if with_usage else lines


def _data(body: dict[str, Any], with_usage: bool, cursor: str = reading.START) -> str:
    """One event. A stream that will end with its usage says in every other chunk that it is not there yet."""
    if with_usage:
        body = {**body, "usage": None}
    name = "" if cursor == reading.START else f"id: {cursor}\n"
    return f"{name}data: {_JSON.encode(body)}\n\n"
