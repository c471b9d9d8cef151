"""`manage.py export_results`: write the measurements that count into `results/*.json`, for a fresh clone to show."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from loraland.catalogue.card import NAME, CardError
from loraland.evals.cards import runs_of_card
from loraland.evals.counting import counting
from loraland.evals.models import Run, Sample
from loraland.evals.results import as_data, write_file
from loraland.evals.task_facts import facts_of


class Command(BaseCommand):
    help = "Write the newest finished runs of each task as aggregates, with the samples that you chose by hand."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", nargs="?", type=Path, default=settings.RESULTS_DIR)
        parser.add_argument(
            "--sample", action="append", default=[], metavar="TASK:ROW", help="show this row of every run; repeatable"
        )
        parser.add_argument(
            "--cards", nargs="+", type=Path, default=[], metavar="DIR", help="take scores from these adapters' cards"
        )

    def handle(self, *, directory: Path, sample: list[str], cards: list[Path], **options: Any) -> None:
        chosen = _chosen(sample)
        runs = _of_cards(cards) if cards else counting(Run.objects.finished())
        by_task: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            by_task[run.task].append(run)
        for task, measured in sorted(by_task.items()):
            path = write_file(task, directory, runs=[as_data(run, _samples(run, chosen[task])) for run in measured])
            self.stdout.write(f"{path.name}: {len(measured)} runs")


def _chosen(words: Iterable[str]) -> defaultdict[str, set[int]]:
    """The rows to show, by task. Raises `CommandError` for a bad word or data whose terms forbid to show it."""
    chosen: defaultdict[str, set[int]] = defaultdict(set)
    for word in words:
        task, _, row = word.rpartition(":")
        if not task or not row.isdecimal():
            raise CommandError(f"{word!r} is not TASK:ROW, such as dbpedia:12.")
        if facts_of(task).restricted:
            raise CommandError(f"The terms of the data of {task} limit its use; its rows stay out of the repository.")
        chosen[task].add(int(row))
    return chosen


def _samples(run: Run, rows: set[int]) -> Iterable[Sample]:
    return run.samples.filter(index__in=rows) if rows else ()


def _of_cards(directories: Iterable[Path]) -> list[Run]:
    try:
        return [run for directory in directories if (directory / NAME).is_file() for run in runs_of_card(directory)]
    except CardError as error:
        raise CommandError(" ".join(error.reasons)) from error
