"""One call from its acceptance to its last byte, whole or streamed. A caller who hangs up stops the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from inference.protocol import Delta, Event, Failed, Finished, TokenLogprob
from inference.streams import WireError
from loraland.api.authentication import visitor_of
from loraland.api.bodies import Head, Shape
from loraland.api.errors import UNAVAILABLE, ApiError, of_failure
from loraland.api.naming import find
from loraland.api.schemas import ChatCompletion, Completion
from loraland.generations import reading
from loraland.generations.models import Generation
from loraland.generations.start import start
from loraland.generations.steady import Steady
from loraland.generations.stop import stop

Response = HttpResponse | StreamingHttpResponse

PATIENCE_SECONDS: Final = 2.0
"""How long a stream waits for its first event before it begins: an early failure gets a status of its own."""
KEEP_ALIVE_SECONDS: Final = 10.0
KEEP_ALIVE: Final = ": waiting\n\n"
DONE: Final = "data: [DONE]\n\n"
_JSON: Final = json.JSONEncoder(separators=(",", ":"))


async def answer(
    request: HttpRequest, asked: ChatCompletion | Completion, shape: Shape
) -> HttpResponse | StreamingHttpResponse:
    """Answer one call. Raises `ApiError` and `Refused` for what cannot be answered."""
    visitor = visitor_of(request)
    version = await find(asked.model, visitor)
    generation = await start(visitor, Generation.Source.API, version, **asked.source(), sampling=asked.sampling())
    digest = version.digest if version else ""
    created = int(generation.created.timestamp())
    head = Head(generation.wire_id, asked.model, created, digest, generation.components)
    if asked.stream:
        return await streamed(generation, head, shape, asked.include_usage)
    return JsonResponse(await whole(generation, head, shape))


async def whole(generation: Generation, head: Head, shape: Shape) -> dict[str, Any]:
    """The complete answer as one body."""
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    async with aclosing(_followed(generation)) as events:
        async for event in events:
            if isinstance(event, Delta):
                texts.append(event.text)
                logprobs.extend(event.logprobs)
            elif isinstance(event, Finished):
                return shape.whole(head, "".join(texts), logprobs, event)
            elif isinstance(event, Failed):
                raise of_failure(event)
    raise AssertionError("an answer ended without a terminal event")


async def streamed(generation: Generation, head: Head, shape: Shape, with_usage: bool) -> StreamingHttpResponse:
    """The answer as server-sent events. Raises `ApiError` when it fails before anything was sent."""
    steady = Steady(_followed(generation))
    try:
        first = await steady.next(PATIENCE_SECONDS)
        if isinstance(first, Failed):
            raise of_failure(first)
    except BaseException:
        await steady.aclose()
        raise
    response = StreamingHttpResponse(_sse(steady, first, head, shape, with_usage), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


async def _followed(generation: Generation) -> AsyncGenerator[Event]:
    """The answer's deltas and its terminal event; leaving before the end stops the answer."""
    ended = False
    try:
        async with aclosing(reading.events(generation)) as events:
            async for _, event in events:
                ended = isinstance(event, Finished | Failed)
                if ended or isinstance(event, Delta):
                    yield event
    finally:
        if not ended:
            await stop(generation)


async def _sse(
    steady: Steady[Event], event: Event | None, head: Head, shape: Shape, with_usage: bool
) -> AsyncIterator[str]:
    async with aclosing(steady):
        if opening := shape.opening(head):
            yield _data(opening, with_usage)
        try:
            at = 0
            while True:
                if event is None:
                    yield KEEP_ALIVE
                elif isinstance(event, Delta):
                    if event.text or event.logprobs:
                        yield _data(shape.chunk(head, event.text, event.logprobs, at), with_usage)
                    at += len(event.text)
                else:
                    break
                event = await steady.next(KEEP_ALIVE_SECONDS)
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


def _data(body: dict[str, Any], with_usage: bool) -> str:
    """One event. A stream that will end with its usage says in every other chunk that it is not there yet."""
    if with_usage:
        body = {**body, "usage": None}
    return f"data: {_JSON.encode(body)}\n\n"
