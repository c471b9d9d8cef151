"""Following an answer: from its stream while that is there, from its row ever after, without a gap between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

from channels.db import aclose_old_connections
from django.utils import timezone

from inference.wire.contract import WireError, position_of
from inference.wire.protocol import Delta, Event, is_terminal
from loraland import outage
from loraland.generations.models import Generation
from loraland.generations.outcomes import outcomes
from loraland.generations.readers import readers
from loraland.generations.visitor import Visitor
from loraland.inference_client import wire

START: Final = "0-0"
"""The cursor before the first event. Events told from a row all bear it, as a row has no finer steps."""

SILENCE_SECONDS: Final = 5.0
"""After so long without an event the database is asked whether the answer ended elsewhere."""

FOLLOWING: Final = "following an answer"
OUTCOME: Final = ("status", "text", "error_code", "error", "stats", "weights", "finished")
"""The columns that an answer's end sets."""

Read = tuple[str, Event]


async def generation_of(visitor: Visitor, id: UUID | str) -> Generation:
    """The generation `id` if it belongs to `visitor`.

    Raises `Generation.DoesNotExist` for an unknown one and for another visitor's alike: both are a 404.
    """
    try:
        key = id if isinstance(id, UUID) else UUID(id)
    except ValueError as error:
        raise Generation.DoesNotExist(f"{id!r} is not the id of an answer") from error
    return await Generation.objects.of(visitor).select_related("adapter_version__adapter").aget(id=key)


async def place(generation: Generation) -> int | None:
    """How many requests wait before this one (0: it is next), or None once a worker has it or it has ended."""
    return await wire().place(generation.wire_id)


async def events(generation: Generation, after: str = START) -> AsyncGenerator[Read]:
    """The events of `generation` past the cursor `after`, as they come, up to its one terminal event.

    Once the stream has gone, the row tells one `Delta` with the whole text and the terminal event, both under
    the cursor `START`: a reader who has text already begins it anew there. The caller checks who may read.
    Raises `inference.wire.contract.WireError` when Redis goes while the answer is under way: read again from there.
    """
    async with readers().reading(generation.wire_id, _is_new(generation)), aclosing(_live(generation, after)) as live:
        async for after, event in live:
            yield after, event
            if is_terminal(event):
                return
    for read in await _told_by_row(generation, after):
        yield read


async def _live(generation: Generation, after: str) -> AsyncGenerator[Read]:
    """Events from the wire; ends early when the row says that the answer is over and the stream is silent."""
    async with aclosing(wire().events(generation.wire_id, after)) as stream:
        is_over = await _is_over(generation)
        while not is_over:
            with suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        read = await anext(stream, None)
                    if read is None:
                        return
                    yield read
            is_over = await _may_be_over(generation) and await _is_over(generation)


async def _is_over(generation: Generation) -> bool:
    """Whether the row has an outcome. Lets the connection go: a reader may wait for minutes, and by the hundred."""
    if _is_new(generation):
        return generation.is_finished
    if not generation.is_finished:
        with outage.tolerated(FOLLOWING):
            await generation.arefresh_from_db(fields=OUTCOME)
    await aclose_old_connections()
    return generation.is_finished


async def _may_be_over(generation: Generation) -> bool:
    """A stream goes on without the database, which is asked again after the next silence."""
    with outage.tolerated(FOLLOWING):
        return await outcomes().has_ended(generation.id, SILENCE_SECONDS)
    return False


def _is_new(generation: Generation) -> bool:
    """Whether it was accepted just now: its stream cannot have gone yet, so the row need not be asked."""
    return timezone.now() - generation.created < timedelta(seconds=SILENCE_SECONDS)


async def _told_by_row(generation: Generation, after: str) -> list[Read]:
    """What a finished answer's stream still holds past `after`; the row's own account if it has gone."""
    history = await _history(generation)
    if history and is_terminal(history[-1][1]):
        return [read for read in history if position_of(read[0]) > position_of(after)] or history[-1:]
    text = [(START, Delta(generation.wire_id, generation.text))] if generation.text else []
    return [*text, (START, generation.terminal())]


async def _history(generation: Generation) -> list[Read]:
    try:
        return await wire().history(generation.wire_id)
    except WireError:
        return []  # the row holds the whole answer
