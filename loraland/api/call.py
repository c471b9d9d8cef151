"""One call on its way: its choices, of which as many run at once as may; the next begins when one has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from inference.wire.protocol import (
    Delta,
    Embedded,
    Event,
    Failed,
    Finished,
    Progress,
    Prompted,
    Sampling,
    TokenLogprob,
    is_terminal,
)
from loraland.api.errors import ApiError, of_failure
from loraland.generations import reading
from loraland.generations.models import Generation
from loraland.generations.stop import stop
from loraland.inference_client import cancel
from loraland.refusal import Refused

MOST_AT_ONCE: Final = 128
"""How many choices of one call are in the queue or running, where the key may have as many."""
BUSY: Final = ("too_many_running", "queue_full")
"""Refusals that pass when an answer ends."""
RETRY_SECONDS: Final = 1.0
RETRIES: Final = 30
"""How often a choice is tried that finds no room while none of its call runs: others of the same key have it all."""

_leaving: Final[set[asyncio.Task[None]]] = set()
"""Calls that stop what they began: kept from being forgotten, whatever becomes of who waits for them."""


@dataclass(frozen=True)
class Choice:
    """One answer that a call asks for: its number, the number of its prompt, and what `generations.start` takes.

    Choices with the same `group` answer the same prompt, which is to be read once.
    """

    index: int = 0
    prompt: int = 0
    source: dict[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    group: str = ""


@dataclass(frozen=True)
class Reader:
    """What a caller wants of an answer, and what it has: all up to the cursor `after`, which is `num_chars` long.

    With `stops` nobody is to come back for the answer once this caller has gone.
    """

    stops: bool
    with_usage: bool = False
    with_every_usage: bool = False
    """Whether each piece of a stream tells what the answer has cost so far."""
    after: str = reading.START
    num_chars: int = 0
    held: tuple[TokenLogprob, ...] = ()
    """Tokens of which it could not be told yet: no character of theirs was."""


@dataclass(frozen=True)
class Told:
    """An event of a choice and its cursor, `reading.START` for one that has none of its own."""

    choice: Choice
    generation: Generation
    cursor: str
    event: Event


Begin = Callable[[Choice], Awaitable[Generation]]


class Call:
    """The choices of a call, of which the first is accepted already; `begin` has another accepted."""

    def __init__(self, first: Generation, reader: Reader, choices: Sequence[Choice] = (), begin: Begin | None = None):
        self._choices = list(choices) or [Choice()]
        self._first, self._reader, self._begin = first, reader, begin
        self._told: asyncio.Queue[Told | Exception] = asyncio.Queue()
        self._followers: dict[asyncio.Task[None], Generation] = {}
        self._has_ended = asyncio.Event()
        self._is_left = False

    @property
    def choices(self) -> Sequence[Choice]:
        return self._choices

    def error_of(self, told: Told) -> ApiError:
        """Why a choice, and with it the call, has no answer. Of several prompts it names the one that is at fault."""
        assert isinstance(told.event, Failed)
        error = of_failure(told.event)
        if self._choices[-1].prompt and error.status < 500:
            number = told.choice.prompt
            error = ApiError(error.status, error.code, f"Prompt {number}: {error.message}", f"prompt.{number}")
        return error

    async def events(self) -> AsyncGenerator[Told]:
        """What is told of the prompt, the deltas and the terminal event of each choice, as they come.

        A caller who leaves before the end may stop all that runs. A fault of ours, or of Redis, does not: the caller
        can come back.
        """
        async with aclosing(self._of_all() if len(self._choices) > 1 else self._of_one()) as events:
            async for told in events:
                yield told

    async def _of_one(self) -> AsyncGenerator[Told]:
        """A choice that is alone needs no task to follow it."""
        [choice], is_over = self._choices, False
        try:
            async with aclosing(_events(self._first, self._reader)) as events:
                async for cursor, event in events:
                    is_over = is_terminal(event)
                    yield Told(choice, self._first, cursor, event)
        except (GeneratorExit, asyncio.CancelledError):
            if self._reader.stops and not is_over:
                await _whatever_happens(stop(self._first))
            raise

    async def _of_all(self) -> AsyncGenerator[Told]:
        self._follow(self._choices[0], self._first)
        placing = asyncio.create_task(self._place_rest(), name="placing choices")
        is_left, left = False, len(self._choices)
        try:
            while left:
                told = await self._told.get()
                if isinstance(told, Exception):
                    raise told
                left -= is_terminal(told.event)
                yield told
        except (GeneratorExit, asyncio.CancelledError):
            is_left = True
            raise
        finally:
            await _whatever_happens(self._end(placing, is_left))

    async def _place_rest(self) -> None:
        try:
            for choice in self._choices[1:]:
                if generation := await self._placed(choice):
                    self._follow(choice, generation)
        except Exception as error:
            self._told.put_nowait(error)

    async def _placed(self, choice: Choice) -> Generation | None:
        """`choice`, accepted as soon as there is room for it; None once the caller has left."""
        assert self._begin is not None
        num_tries = 0
        while not self._is_left:
            self._has_ended.clear()
            if len(self._followers) < MOST_AT_ONCE:
                try:
                    return await self._begin(choice)
                except Refused as refusal:
                    num_tries += not self._followers
                    if refusal.code not in BUSY or num_tries > RETRIES:
                        raise
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._followers else RETRY_SECONDS):
                    await self._has_ended.wait()
        return None

    def _follow(self, choice: Choice, generation: Generation) -> None:
        self._followers[asyncio.create_task(self._followed(choice, generation), name="following a choice")] = generation

    async def _followed(self, choice: Choice, generation: Generation) -> None:
        try:
            async with aclosing(_events(generation, self._reader)) as events:
                async for cursor, event in events:
                    if is_terminal(event):
                        self._leave()
                    self._told.put_nowait(Told(choice, generation, cursor, event))
        except Exception as error:
            self._told.put_nowait(error)

    def _leave(self) -> None:
        """Let the choice of the running task count as ended."""
        task = asyncio.current_task()
        assert task is not None
        self._followers.pop(task, None)
        self._has_ended.set()

    async def _end(self, placing: asyncio.Task[None], is_left: bool) -> None:
        """Stop what still runs, if the caller has left and will not come back; a choice on its way in is waited for."""
        self._is_left = True
        self._has_ended.set()
        await asyncio.wait({placing})
        running = dict(self._followers)
        try:
            if is_left and self._reader.stops:
                await asyncio.gather(*map(stop, running.values()))
        finally:
            await asyncio.gather(*map(cancel, running))


async def _whatever_happens(ending: Coroutine[Any, Any, None]) -> None:
    """Do what the end of a call takes, to its end even where nobody waits for it any more."""
    task = asyncio.create_task(ending, name="ending a call")
    _leaving.add(task)
    task.add_done_callback(_leaving.discard)
    await asyncio.shield(task)


def is_running(event: Event) -> bool:
    """Whether `event` tells how long the prompt is, which nothing else does before the end."""
    return isinstance(event, Progress) and event.prompt_tokens > 0


async def _events(generation: Generation, reader: Reader) -> AsyncGenerator[tuple[str, Event]]:
    """What is told of the prompt, the answer's deltas and its terminal event."""
    num_chars, held = reader.num_chars, reader.held
    async with aclosing(reading.events(generation, reader.after)) as events:
        async for cursor, event in events:
            if isinstance(event, Delta):
                # The row has no finer steps than the whole text, of which the caller has the beginning.
                event = replace(event, text=event.text[num_chars:]) if cursor == reading.START else event
                event, held = replace(event, logprobs=held + event.logprobs) if held else event, ()
                num_chars += len(event.text)
            if isinstance(event, Prompted | Embedded | Delta | Finished | Failed) or is_running(event):
                yield cursor, event
