"""`manage.py evaluate --data DIR`: measure adapters and what they must beat, through the queue that visitors use."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from tqdm import tqdm

from inference.tasks.data import DataError, Split, read_split
from inference.tasks.recipe import Recipe, RecipeError, load_recipe
from loraland import bases, inference_client
from loraland.catalogue.composition import base_of
from loraland.catalogue.models import AdapterVersion
from loraland.evals.asking import CannotMeasure, ask_engine
from loraland.evals.bakeoff import Trial, carry_out, fitting, task_of
from loraland.evals.models import Run
from loraland.evals.task_facts import recipe_of
from loraland.refusal import Refused


class Command(BaseCommand):
    help = "Measure adapters on the test rows of their tasks. What is measured is skipped, what was left off goes on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_choice(parser)
        parser.add_argument("--limit", type=int, help="only so many rows, for a first look")
        parser.add_argument("--again", action="store_true", help="measure anew what is measured already")
        parser.add_argument("--reference", action="store_true", help="ask the model at REFERENCE_URL as well")

    def handle(self, *, data: Path, tasks: list[str], adapters: list[str], **options: Any) -> None:
        if options["reference"] and not (settings.REFERENCE_URL and settings.REFERENCE_MODEL):
            raise CommandError("--reference needs REFERENCE_URL and REFERENCE_MODEL (and REFERENCE_KEY) to be set.")
        with told_how_to_go_on():
            how: Any = (options["limit"], options["again"], options["reference"], ask_engine)
            asyncio.run(self._carry_out([Trial(*chosen, *how) for chosen in chosen_tasks(data, tasks, adapters)]))

    async def _carry_out(self, trials: Sequence[Trial]) -> None:
        async with rows_of(sum(trial.rows for trial in trials)) as bar:
            for trial in trials:
                bar.set_description(trial.recipe.task)
                await carry_out(trial, bar.update, lambda run: bar.write(line_of(run)))


def add_choice(parser: ArgumentParser) -> None:
    """The options by which a command that measures is told what."""
    parser.add_argument("--data", type=Path, required=True, help="holds a folder for each task")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="by default those of the adapters")
    parser.add_argument("--adapters", nargs="+", default=[], metavar="SLUG", help="by default those for the tasks")


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """What keeps a command from measuring as a `CommandError`."""
    try:
        yield
    except (DataError, RecipeError, CannotMeasure) as error:
        raise CommandError(f"{error} What is answered is kept; run the command again to go on.") from error


@asynccontextmanager
async def rows_of(count: int) -> AsyncIterator[tqdm[Any]]:
    """A bar over `count` rows; behind it the connections of this event loop are let go of."""
    with tqdm(total=count, unit="row") as bar:
        try:
            yield bar
        finally:
            await inference_client.close()
            await sync_to_async(connections.close_all)()


def line_of(run: Run) -> str:
    return f"{run.task}: {run.who}{f', {run.asked}' if run.asked else ''}: {run.points:.1f}"


def chosen_tasks(
    data: Path, tasks: Sequence[str], slugs: Sequence[str]
) -> Iterator[tuple[Recipe, Split, list[AdapterVersion]]]:
    """Each task to measure with its rows and the adapters to try, once for each base that these have."""
    for task, versions in chosen_adapters(tasks, slugs).items():
        recipe = load_recipe(task)
        split, fit = read_split(data, task, recipe.field_names), fitting(recipe, versions)
        for base in dict.fromkeys(map(base_of, fit)) or [bases.default()]:
            yield recipe, split, [version for version in fit if base_of(version) == base]


def chosen_adapters(tasks: Sequence[str], slugs: Sequence[str]) -> dict[str, list[AdapterVersion]]:
    """The adapters to try on each task; unnamed, those for tasks without a recipe are passed over.

    Raises `CommandError` for a name that is not there.
    """
    shown = AdapterVersion.objects.served().shown().order_by("adapter__name")
    try:
        chosen = [shown.named(slug) for slug in slugs]
    except Refused as refused:
        slugs_here = ", ".join(version.adapter.slug for version in shown)
        raise CommandError(f"{refused} There are {slugs_here or 'none'}.") from refused
    chosen = chosen or [version for version in shown if recipe_of(task_of(version.adapter))]
    wanted = dict.fromkeys(tasks or [task_of(version.adapter) for version in chosen])
    for_all = bool(tasks and slugs)
    return {task: [version for version in chosen if for_all or task_of(version.adapter) == task] for task in wanted}
