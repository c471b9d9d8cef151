"""A few answers to look at: test rows drawn by a seed, asked of the base at its best and of the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asgiref.sync import sync_to_async

from inference.tasks.data import Split
from inference.tasks.recipe import Recipe
from loraland.catalogue.composition import base_of
from loraland.catalogue.models import AdapterVersion
from loraland.evals import questions
from loraland.evals.asking import Ask, CannotMeasure, ask_engine
from loraland.evals.counting import comparisons
from loraland.evals.measuring import ensure_run
from loraland.evals.models import Run
from loraland.evals.questions import RunPlan


@dataclass(frozen=True)
class Draw:
    """Which rows of a task are asked of whom: `count` of its test rows, drawn by `seed`, of each of `versions`."""

    recipe: Recipe
    split: Split
    versions: Sequence[AdapterVersion]
    count: int
    seed: int = 0


async def answer_drawn(draw: Draw, on_row: Callable[[], None], ask: Ask = ask_engine) -> list[Run]:
    """Ask what is not answered yet; the finished runs, the base's before each adapter's.

    Raises `CannotMeasure`; another call goes on where this one stopped.
    """
    chosen = questions.draw(draw.count, len(draw.split.test), draw.seed)
    plans = await sync_to_async(_plans)(draw)
    drawn = [questions.only(chosen, plan, draw.split.test, draw.seed) for plan in plans]
    return [await ensure_run(plan, ask, on_row) for plan in drawn]


def _plans(draw: Draw) -> list[RunPlan]:
    """The base in the way that its score on the leaderboard was made, and the adapter; over all test rows."""
    recipe, split = draw.recipe, draw.split
    plans = []
    for version in draw.versions:
        measured = comparisons(Run.objects.on_test().filter(task=recipe.task))
        best = next((found.base for found in measured if found.tuned.digest == version.digest), None)
        if best is None:
            raise CannotMeasure(f"{version.adapter.slug} has no score on {recipe.task}; run evaluate on it first.")
        plans.append(questions.of_base(base_of(version), best.prompt, recipe, split, Run.Split.TEST))
        plans.append(questions.of_adapter(version, recipe, split.test))
    return plans
