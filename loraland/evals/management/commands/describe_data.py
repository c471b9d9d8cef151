"""`manage.py describe_data --data DIR`: the complexity heuristics of every task's training rows, into `results/`."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from inference.tasks.data import DataError, read_split
from inference.tasks.recipe import RecipeError, load_recipe
from inference.tasks.recipe import tasks as known_tasks
from loraland.evals.heuristics import heuristics
from loraland.evals.results import ResultsError, write_file


class Command(BaseCommand):
    help = "Work out the complexity heuristics of data sets and keep them in results/*.json."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--data", type=Path, required=True, help="holds a folder for each task")
        parser.add_argument("--tasks", nargs="+", default=list(known_tasks()), metavar="TASK")

    def handle(self, *, data: Path, tasks: list[str], **options: Any) -> None:
        for task in tasks:
            try:
                rows = read_split(data, task, load_recipe(task).field_names).train
                write_file(task, data=heuristics(rows))
            except (DataError, RecipeError, ResultsError) as error:
                raise CommandError(str(error)) from error
            self.stdout.write(f"{task}: {len(rows)} training rows")
