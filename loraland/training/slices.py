"""Measuring a draft on the held-out rows through the same runs as any adapter, in slices of a job's time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from asgiref.sync import sync_to_async
from django.db import connections

from inference.tasks.data import DataError, read_split
from inference.wire.contract import WireError
from loraland import inference_client
from loraland.evals.asking import Answered, CannotMeasure, ask_engine
from loraland.evals.bakeoff import Trial, carry_out
from loraland.evals.models import Run
from loraland.evals.questions import Question, RunPlan
from loraland.training.models import Training
from loraland.training.rows import MOST_TEST_ROWS, parts_of, write_parts

SLICE_SECONDS: Final = 20.0
"""After so long no more is asked, so that other jobs have their turn."""
PATIENCE_SECONDS: Final = 60.0
"""How much longer the answers under way are waited for."""
GRACE_SECONDS: Final = 1.0
"""In which the last answers are kept."""
AT_ONCE: Final = 32
TELL_SECONDS: Final = 2.0
MOST_SETBACKS: Final = 10
NO_WORKER: Final = "No worker of {base} is ready; the measurement goes on when one is."
GONE: Final = "It is trained, and a draft, but was not measured: {base} is no longer served here."


class TimeIsUp(Exception):
    """The slice is over; what was answered is kept."""


class Slice:
    """Asks the engine for `seconds`, then lets what was asked be answered, and raises `TimeIsUp`."""

    def __init__(self, seconds: float) -> None:
        self._end = asyncio.get_running_loop().time() + seconds
        self._room = asyncio.Semaphore(AT_ONCE)
        self._under_way = 0
        self._is_quiet = asyncio.Event()

    async def ask(self, plan: RunPlan, question: Question) -> Answered:
        async with self._room:
            if asyncio.get_running_loop().time() >= self._end:
                await self._wait_for_the_others()
                raise TimeIsUp
            self._under_way += 1
            try:
                return await ask_engine(plan, question)
            finally:
                self._under_way -= 1
                if not self._under_way:
                    self._is_quiet.set()

    async def _wait_for_the_others(self) -> None:
        while self._under_way:
            self._is_quiet.clear()
            await self._is_quiet.wait()
        await asyncio.sleep(GRACE_SECONDS)


class Progress:
    """Counts the rows that are answered, and tells the page of them while it is entered."""

    def __init__(self, training: Training, total: int) -> None:
        self._training, self._total, self._seen = training, total, 0
        self._before = training.measured

    @property
    def has_come_further(self) -> bool:
        return self._seen > self._before

    def count(self) -> None:
        self._seen += 1

    async def tell(self) -> None:
        """Write down how many rows are answered, never fewer than before."""
        measured = max(self._seen, self._before)
        await sync_to_async(self._training.change)(measured=measured, to_measure=self._total)

    async def __aenter__(self) -> Progress:
        self._telling = asyncio.create_task(self._tell_often())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._telling.cancel()
        with suppress(asyncio.CancelledError):
            await self._telling
        await self.tell()

    async def _tell_often(self) -> None:
        while True:
            await self.tell()
            await asyncio.sleep(TELL_SECONDS)


def measure_in_a_loop(training: Training) -> None:
    """`measure` for a job, in an event loop of its own."""
    asyncio.run(_alone(training))


async def measure(training: Training, seconds: float = SLICE_SECONDS) -> None:
    """Go on with the measurement of the draft for about `seconds`; record its result once all rows are answered."""
    base = training.of_base
    if not base.is_served:
        return await sync_to_async(training.end)(Training.State.FAILED, GONE.format(base=base.name))
    try:
        if not await inference_client.ready_worker(base):
            await sync_to_async(training.change)(note=NO_WORKER.format(base=base.name))
            return
    except WireError as error:
        await sync_to_async(training.change)(note=str(error))
        return
    turn = Slice(seconds)
    try:
        trial = await sync_to_async(trial_of)(training, turn)
    except (DataError, OSError) as error:
        return await sync_to_async(training.end)(Training.State.FAILED, f"Its rows cannot be read: {error}.")
    await _carry_out(training, trial, seconds)


def trial_of(training: Training, turn: Slice) -> Trial:
    """The draft's trial, over the rows as the trainer cut them. Raises `DataError` and OSError."""
    recipe, folder = training.recipe, training.folder / "data"
    if not (folder / "test.jsonl").exists():
        write_parts(parts_of(training.data), recipe.field_names, folder)
    version = training.version
    assert version is not None  # only a draft is measured
    split = read_split(folder, recipe.task, recipe.field_names)
    return Trial(recipe, split, [version], limit=MOST_TEST_ROWS, ask=turn.ask)


async def _carry_out(training: Training, trial: Trial, seconds: float) -> None:
    progress = Progress(training, trial.rows)
    try:
        async with asyncio.timeout(seconds + PATIENCE_SECONDS), progress:
            await carry_out(trial, progress.count, lambda run: None)
    except TimeIsUp:
        await sync_to_async(training.change)(note="", setbacks=0)
    except TimeoutError:
        trouble = f"Answers took longer than {seconds + PATIENCE_SECONDS:g} seconds."
        await sync_to_async(_stumble)(training, progress, trouble)
    except CannotMeasure as trouble:
        await sync_to_async(_stumble)(training, progress, str(trouble))
    else:
        await sync_to_async(_conclude)(training)


def _stumble(training: Training, progress: Progress, trouble: str) -> None:
    """Try again next time, unless that has led nowhere often enough."""
    setbacks = 0 if progress.has_come_further else training.setbacks + 1
    if setbacks < MOST_SETBACKS:
        training.change(setbacks=setbacks, note=f"{trouble} It is tried again.")
    else:
        reason = f"It is trained, and a draft, but could not be measured: {trouble}"
        training.end(Training.State.FAILED, reason, setbacks=setbacks)


def _conclude(training: Training) -> None:
    version = training.version
    assert version is not None  # a trial was held with it
    mine = Run.objects.filter(task=training.slug, subject=Run.Subject.ADAPTER, digest=version.digest)
    training.end(Training.State.DONE, run=mine.filter(split=Run.Split.TEST).whole().first())


async def _alone(training: Training) -> None:
    try:
        await measure(training)
    finally:
        await inference_client.close()
        await sync_to_async(connections.close_all)()
