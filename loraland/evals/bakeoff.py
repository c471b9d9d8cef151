"""All that is measured of one task: the constant, the base in every style, then its best on the test rows, adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from inference.tasks.baseline import STYLES
from inference.tasks.data import Split
from inference.tasks.recipe import Recipe
from loraland.bases import Base
from loraland.catalogue.composition import base_of
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.evals import questions
from loraland.evals.asking import Ask, CannotMeasure, ask_engine
from loraland.evals.measuring import ensure_run
from loraland.evals.models import Run
from loraland.evals.questions import RunPlan
from loraland.evals.reference import ask_reference


@dataclass(frozen=True)
class Trial:
    """One task to be measured: its rows, the adapters to try, which are of one base, and whether another model is asked
    as well."""

    recipe: Recipe
    split: Split
    versions: Sequence[AdapterVersion]
    limit: int | None = None
    again: bool = False
    with_reference: bool = False
    ask: Ask = ask_engine

    @property
    def base(self) -> Base:
        """The base of its adapters; without any the default one."""
        return base_of(self.versions[0] if self.versions else None)

    @property
    def rows(self) -> int:
        """How many questions it asks."""
        tested = len(self.split.test[: self.limit])
        validated = len(STYLES) * len(self.split.validation[: self.limit])
        return validated + tested * (1 + len(self.versions) + self.with_reference)


async def carry_out(trial: Trial, on_row: Callable[[], None], on_run: Callable[[Run], None]) -> None:
    """Measure what is not measured yet. `on_row` is told of every row, `on_run` of every run that is whole.

    Raises `CannotMeasure`; another call goes on where this one stopped.
    """
    recipe, split = trial.recipe, trial.split
    rows = split.test[: trial.limit]

    async def ensure(plan: RunPlan, ask: Ask = trial.ask) -> Run:
        run = await ensure_run(plan, ask, on_row, trial.again)
        on_run(run)
        return run

    await ensure(questions.of_constant(trial.base, recipe, split, rows))
    tried = [
        await ensure(questions.of_base(trial.base, style, recipe, split, Run.Split.VALIDATION, trial.limit))
        for style in STYLES
    ]
    style = max(tried, key=lambda run: run.score or 0.0).prompt
    await ensure(questions.of_base(trial.base, style, recipe, split, Run.Split.TEST, trial.limit))
    for version in trial.versions:
        await ensure(questions.of_adapter(version, recipe, rows))
    if trial.with_reference:
        await ensure(questions.of_reference(recipe, rows), ask=ask_reference)


def task_of(adapter: Adapter) -> str:
    """The task that `adapter` was trained for: its data set's, else the one of its own name."""
    return str(adapter.dataset.get("name") or adapter.slug)


def fitting(recipe: Recipe, versions: Iterable[AdapterVersion]) -> list[AdapterVersion]:
    """`versions`, of which each must read the fields of the task. Raises `CannotMeasure`."""
    chosen = list(versions)
    for version in chosen:
        if set(version.field_names) != set(recipe.field_names):
            raise CannotMeasure(
                f"{version.adapter.slug} reads {', '.join(version.field_names) or 'no fields'}, "
                f"and the rows of {recipe.task} have {', '.join(recipe.field_names)}; leave it out."
            )
    return chosen
