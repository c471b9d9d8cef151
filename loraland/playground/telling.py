"""Telling a page what becomes of one answer: its place in the queue, its text as it grows, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from asgiref.sync import sync_to_async

from inference.wire.contract import WireError
from inference.wire.protocol import Delta, Embedded, Event, Failed, Progress, Prompted, Terminal
from loraland import bases, inference_client, outage
from loraland.generations import reading
from loraland.generations.models import Generation
from loraland.generations.told import told_by
from loraland.playground.answers import ended, message_of
from loraland.playground.comparisons import expectation_of

PLACE_SECONDS: Final = 1.0

Tell = Callable[[dict[str, Any]], Awaitable[None]]


async def follow(generation: Generation, after: str, tell: Tell) -> None:
    """Tell everything past the cursor `after`, up to the one message that ends the answer.

    Every delta carries its cursor. One under `reading.START` begins the text anew.
    """
    if generation.is_finished:
        return await tell(await _ended(generation, generation.terminal(), generation.text))
    waiting = asyncio.create_task(_tell_waiting(generation, tell))
    try:
        async with aclosing(reading.events(generation, after)) as events:
            async for cursor, event in events:
                waiting.cancel()
                await tell(await _told(generation, cursor, event))
    finally:
        await inference_client.cancel(waiting)


async def _told(generation: Generation, cursor: str, event: Event) -> dict[str, Any]:
    answer = str(generation.id)
    if isinstance(event, Delta):
        return {"type": "delta", "answer": answer, "cursor": cursor, "text": event.text}
    if isinstance(event, Progress):
        return {"type": "progress", "answer": answer, "state": event.state}
    assert not isinstance(event, Prompted | Embedded), "no page asks what the model makes of its prompt"
    return await _settled(generation, event)


async def _settled(generation: Generation, terminal: Terminal) -> dict[str, Any]:
    """The end, written down first (once, whoever comes first), so that the visitor's next step can build on it.

    While the database takes nothing it is told all the same: the recorder goes on trying until the row is written.
    """
    async with aclosing(reading.events(generation)) as events:
        told = told_by([event async for _, event in events])
    with outage.tolerated("an answer's end"):
        await sync_to_async(generation.record)(terminal, told.text, told.weights)
    generation.weights = told.weights or generation.weights
    return await _ended(generation, terminal, told.text)


async def _ended(generation: Generation, terminal: Terminal, text: str) -> dict[str, Any]:
    """Markdown takes its time, so it is rendered off the event loop. In an outage the answer is told unjudged."""
    expectation = None
    with outage.tolerated("what was expected of an answer"):
        expectation = await sync_to_async(expectation_of)(generation)
    view = await asyncio.to_thread(ended, generation, terminal, text, expectation)
    code = terminal.code if isinstance(terminal, Failed) else ""
    return await asyncio.to_thread(message_of, view, code)


async def _tell_waiting(generation: Generation, tell: Tell) -> None:
    """Tell the place in the queue and whether a worker is up, of which base where there are several, when they change,
    until a worker has claimed it."""
    told: tuple[int, str] | None = None
    base = generation.base if len(bases.served()) > 1 else ""
    while (found := await _place(generation)) is not None:
        if found != told:
            about = {"place": found[0], "workers": found[1], "base": base}
            await tell({"type": "place", "answer": str(generation.id), **about})
            told = found
        await asyncio.sleep(PLACE_SECONDS)


async def _place(generation: Generation) -> tuple[int, str] | None:
    """The place and the state of the workers; None once claimed, or while Redis does not say."""
    try:
        place = await reading.place(generation)
        return None if place is None else (place, await _workers(generation))
    except WireError:
        return None


async def _workers(generation: Generation) -> str:
    """``ready``, ``starting`` while none has the base model loaded, ``none``."""
    heartbeats = await inference_client.wire().heartbeats(generation.base.lower())
    if any(heartbeat.ready for heartbeat in heartbeats):
        return "ready"
    return "starting" if heartbeats else "none"
