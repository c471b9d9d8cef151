"""Coming back for an answer: whole, or its stream from behind the last event that a program has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from django.http import HttpRequest

from inference.wire.contract import position_of
from inference.wire.protocol import Delta
from loraland import bases
from loraland.api.answering import Response, respond
from loraland.api.authentication import visitor_of
from loraland.api.call import Call, Reader
from loraland.api.errors import ApiError
from loraland.api.openai.bodies import Chat
from loraland.api.openai.calls import ChatCalls
from loraland.api.openai.plain import Plain
from loraland.api.shape import Head, Shape
from loraland.api.tools.reading import of_request
from loraland.catalogue.composition import recorded_name
from loraland.generations import reading
from loraland.generations.models import Generation
from loraland.inference_client import wire


@dataclass(frozen=True)
class Again:
    """What is known of an answer to which a program comes back: its request, and its text that the program has."""

    request: dict[str, Any]
    told: str

    @property
    def with_logprobs(self) -> bool:
        return self.request["sampling"]["logprobs"] is not None


async def answer_again(
    request: HttpRequest, id: str, shape: Callable[[Again], Shape], stream: bool, with_usage: bool
) -> Response:
    """The answer `id`, as far as it is there and as it comes, to the key that asked for it.

    Of a call with several choices each is an answer with an id of its own; the call's id is that of its first. With the
    header ``Last-Event-ID`` a stream goes on behind that event. Raises `ApiError`: 404 for what is not the
    key's own, 410 for a stream that has gone, and what the answer itself ended with.
    """
    generation = await _own(request, id)
    after = request.headers.get("Last-Event-ID", "") if stream else ""
    reader, told = Reader(stops=False, with_usage=with_usage), ""
    if after:
        reader, told = await _behind(generation, after, reader)
    shaped = shape(Again(generation.request, told))
    return await respond(Call(generation, reader), _head(generation), shaped, reader, stream)


def chat_again(again: Again) -> Chat:
    tools = of_request(again.request.get("tools", ""), again.request.get("tool_choice", ""))
    return Chat(again.with_logprobs, calls=ChatCalls(tools, told=again.told) if tools else None)


def plain_again(again: Again) -> Plain:
    return Plain(again.with_logprobs)


async def _own(request: HttpRequest, id: str) -> Generation:
    try:
        return await reading.generation_of(visitor_of(request), id)
    except Generation.DoesNotExist:
        sentence = "There is no such answer, or it was not asked for with this key."
        raise ApiError(404, "not_found", sentence, param="id") from None


async def _behind(generation: Generation, after: str, reader: Reader) -> tuple[Reader, str]:
    """`reader` as one who was told the answer up to the cursor `after`, and the text that it was told."""
    try:
        position = position_of(after)
    except ValueError:
        sentence = "Last-Event-ID is the id of an event of this stream, such as 12-0."
        raise ApiError(400, "invalid_value", sentence, param="Last-Event-ID") from None
    history = await wire().history(generation.wire_id)
    if not history and generation.is_finished:
        sentence = "This stream has gone; ask again without Last-Event-ID and stream for the whole answer."
        raise ApiError(410, "stream_gone", sentence, param="Last-Event-ID")
    seen = [event for cursor, event in history if position_of(cursor) <= position and isinstance(event, Delta)]
    told = "".join(delta.text for delta in seen)
    num_chars = len(told)
    held = tuple(token for delta in seen for token in delta.logprobs if token.offset >= num_chars)
    return replace(reader, after=after, num_chars=num_chars, held=held), told


def _head(generation: Generation) -> Head:
    digest = (generation.request["adapter"] or {}).get("digest", "")
    created = int(generation.created.timestamp())
    name = str(generation.adapter_version or bases.recorded(generation.base).called)
    if generation.components and not generation.adapter_version:
        name = recorded_name(generation.components)
    told = {"route": generation.route} if generation.route else {}
    return Head(generation.wire_id, name, created, digest, generation.components, told=told)
