"""`manage.py sample_answers --data DIR`: answers to a few drawn test rows, so that pages can show what scores mean."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from loraland.evals.asking import ask_engine
from loraland.evals.drawing import Draw, answer_drawn
from loraland.evals.management.commands.evaluate import (
    add_choice,
    chosen_tasks,
    line_of,
    rows_of,
    told_how_to_go_on,
)
from loraland.evals.task_facts import facts_of


class Command(BaseCommand):
    help = "Ask the base and the adapters a few test rows, drawn by a seed. What is answered is kept and skipped."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_choice(parser)
        parser.add_argument("--rows", type=int, default=30, help="how many rows of each task (default: 30)")
        parser.add_argument("--seed", type=int, default=0, help="draws the rows (default: 0)")
        parser.add_argument("--open", action="store_true", help="only tasks whose rows may be given on")

    def handle(self, *, data: Path, tasks: list[str], adapters: list[str], **options: Any) -> None:
        if options["rows"] < 1:
            raise CommandError(f"--rows is {options['rows']}; it must be 1 at least.")
        with told_how_to_go_on():
            draws = [
                Draw(recipe, split, versions, options["rows"], options["seed"])
                for recipe, split, versions in chosen_tasks(data, tasks, adapters)
                if not (options["open"] and facts_of(recipe.task).restricted)
            ]
            asyncio.run(self._answer(draws))

    async def _answer(self, draws: Sequence[Draw]) -> None:
        rows = sum(2 * len(draw.versions) * min(draw.count, len(draw.split.test)) for draw in draws)
        async with rows_of(rows) as bar:
            for draw in draws:
                bar.set_description(draw.recipe.task)
                for run in await answer_drawn(draw, bar.update, ask_engine):
                    bar.write(line_of(run))
