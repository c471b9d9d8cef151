"""`manage.py sample_answers --data DIR`: answers to a few drawn test rows, so that pages can show what scores mean."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from tqdm import tqdm

from inference.tasks.data import DataError, read_split
from inference.tasks.recipe import RecipeError, load_recipe
from loraland import inference_client
from loraland.catalogue.models import AdapterVersion
from loraland.evals.asking import CannotMeasure, ask_engine
from loraland.evals.bakeoff import fitting
from loraland.evals.drawing import Draw, answer_drawn
from loraland.evals.management.commands.evaluate import chosen_adapters
from loraland.evals.task_facts import facts_of


class Command(BaseCommand):
    help = "Ask the base and the adapters a few test rows, drawn by a seed. What is answered is kept and skipped."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--data", type=Path, required=True, help="holds a folder for each task")
        parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="by default those of the adapters")
        parser.add_argument("--adapters", nargs="+", default=[], metavar="SLUG", help="by default those for the tasks")
        parser.add_argument("--rows", type=int, default=30, help="how many rows of each task (default: 30)")
        parser.add_argument("--seed", type=int, default=0, help="draws the rows (default: 0)")
        parser.add_argument("--open", action="store_true", help="only tasks whose rows may be given on")

    def handle(self, *, data: Path, tasks: list[str], adapters: list[str], **options: Any) -> None:
        if options["rows"] < 1:
            raise CommandError(f"--rows is {options['rows']}; it must be 1 at least.")
        try:
            draws = [
                self._draw(task, versions, data, **options)
                for task, versions in chosen_adapters(tasks, adapters).items()
                if not (options["open"] and facts_of(task).restricted)
            ]
            asyncio.run(self._answer(draws))
        except (DataError, RecipeError, CannotMeasure) as error:
            raise CommandError(f"{error} What is answered is kept; run the command again to go on.") from error

    def _draw(self, task: str, versions: Sequence[AdapterVersion], data: Path, **options: Any) -> Draw:
        recipe = load_recipe(task)
        split = read_split(data, task, recipe.field_names)
        return Draw(recipe, split, fitting(recipe, versions), options["rows"], options["seed"])

    async def _answer(self, draws: Sequence[Draw]) -> None:
        rows = sum(2 * len(each.versions) * min(each.count, len(each.split.test)) for each in draws)
        with tqdm(total=rows, unit="row") as bar:
            try:
                for each in draws:
                    bar.set_description(each.recipe.task)
                    for run in await answer_drawn(each, bar.update, ask_engine):
                        bar.write(f"{run.task}: {run.who}{f', {run.asked}' if run.asked else ''}: {run.points:.1f}")
            finally:
                await inference_client.close()
                await sync_to_async(connections.close_all)()
