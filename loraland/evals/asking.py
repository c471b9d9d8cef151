"""Asking the serving engine: rows of a run wait in the same queue as visitors' prompts, behind them in priority."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

from inference.wire.contract import WireError
from inference.wire.failures import FailureCode, meaning_of
from inference.wire.protocol import Delta, Failed, Sampling, is_terminal
from loraland.evals.questions import SEED, Question, RunPlan
from loraland.generations.models import Generation
from loraland.generations.reading import START, events
from loraland.generations.start import start
from loraland.generations.stop import stop
from loraland.generations.visitor import Visitor
from loraland.refusal import Refused

EVALUATOR: Final = Visitor(None, "", "evaluation", is_staff=True)
"""One tenant for all runs: whatever is measured takes one visitor's share of the device. Drafts are measured too."""
TRIES: Final = 5
LONGEST_PAUSE_SECONDS: Final = 10


class CannotMeasure(Exception):
    """A run that cannot go on; what is answered is kept, and the run is taken up again next time."""


@dataclass(frozen=True)
class Answered:
    """The answer to one question, or why there is none; `fingerprint` is of the arithmetic that made it."""

    text: str
    error: str = ""
    fingerprint: str = ""


Ask = Callable[[RunPlan, Question], Awaitable[Answered]]


async def ask_engine(plan: RunPlan, question: Question) -> Answered:
    """The engine's greedy answer. Raises `CannotMeasure` when it refuses the adapter, or stays out of reach."""
    trouble = ""
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(min(2**attempt, LONGEST_PAUSE_SECONDS))
        try:
            return await _ask_once(plan, question)
        except _AskAgain as again:
            trouble = str(again)
    raise CannotMeasure(f"Row {question.index} was asked {TRIES} times without an answer. {trouble}")


class _AskAgain(Exception):
    """A failure that may pass."""


async def _ask_once(plan: RunPlan, question: Question) -> Answered:
    sampling = Sampling(max_tokens=plan.max_tokens, stop=plan.stops, seed=SEED)
    try:
        generation = await start(
            EVALUATOR,
            Generation.Source.EVALUATION,
            plan.version,
            base=plan.base,
            **question.asked,
            sampling=sampling,
            queue_class="evaluation",
        )
        return await _answer_of(generation)
    except Refused as refused:
        return _failed(refused.code, refused.sentence)
    except WireError as error:
        raise _AskAgain(str(error)) from error


async def _answer_of(generation: Generation) -> Answered:
    try:
        return await _follow(generation)
    except asyncio.CancelledError:
        # Nobody waits for it any more, and it would go on at the cost of others.
        with suppress(WireError):
            await stop(generation)
        raise


async def _follow(generation: Generation) -> Answered:
    text = ""
    async with aclosing(events(generation)) as stream:
        async for cursor, event in stream:
            if isinstance(event, Delta):
                text = event.text if cursor == START else text + event.text
            elif isinstance(event, Failed):
                return _failed(event.code, event.error)
            elif is_terminal(event):
                # Without what no database keeps, as the row of the answer itself.
                return Answered(text.replace("\0", ""), fingerprint=event.stats.fingerprint)
    raise _AskAgain("The stream ended without an outcome.")


def _failed(code: FailureCode, sentence: str) -> Answered:
    """A question that is too long has no answer, and earns nothing. What else lasts ends the run, lest it lie."""
    meaning = meaning_of(code)
    if meaning.passes:
        raise _AskAgain(sentence)
    if meaning.fault == "text":
        return Answered("", error=sentence)
    raise CannotMeasure(sentence)
