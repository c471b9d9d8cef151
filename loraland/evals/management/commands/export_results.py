"""`manage.py export_results`: write the measurements that count into `results/*.json`, for a fresh clone to show."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.tasks.card_score import write_score
from loraland.catalogue.card import NAME, CardError
from loraland.catalogue.submission import digest_in
from loraland.evals.cards import runs_of_card, score_of
from loraland.evals.counting import comparisons, counting
from loraland.evals.models import Run, Sample
from loraland.evals.results import as_data, read_file, write_file
from loraland.evals.task_facts import facts_of


class Command(BaseCommand):
    help = "Write the newest finished runs of each task as aggregates, with the samples that you chose by hand."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", nargs="?", type=Path, default=settings.RESULTS_DIR)
        parser.add_argument(
            "--sample",
            action="append",
            default=[],
            metavar="TASK:ROW",
            help="show this test row of all runs; repeatable. A task of which none is named shows what it showed",
        )
        parser.add_argument(
            "--cards", nargs="+", type=Path, default=[], metavar="DIR", help="take scores from these adapters' cards"
        )

    def handle(self, *, directory: Path, sample: list[str], cards: list[Path], **options: Any) -> None:
        chosen = _chosen(sample)
        runs = _of_cards(cards, directory) if cards else counting(Run.objects.public())
        by_task: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            by_task[run.task].append(run)
        for task, measured in sorted(by_task.items()):
            rows = chosen[task] or _shown(directory / f"{task}.json")
            path = write_file(task, directory, runs=[as_data(run, _samples(run, rows)) for run in measured])
            self.stdout.write(f"{path.name}: {len(measured)} runs")
        if not cards:
            _write_cards()


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


def _shown(path: Path) -> set[int]:
    """The test rows that the file at `path` shows already."""
    return {sample["index"] for run in _runs_in(path) for sample in run.get("samples", ())}


def _samples(run: Run, rows: set[int]) -> Iterable[Sample]:
    """Those of the chosen test `rows` that `run` has; the rows of validation have numbers of their own."""
    return run.samples.filter(index__in=rows) if rows and run.split == Run.Split.TEST else ()


def _of_cards(directories: Iterable[Path], results: Path) -> list[Run]:
    """The runs on the cards of adapters for whose weights there are none in `results`."""
    try:
        found = [runs_of_card(directory) for directory in directories if (directory / NAME).is_file()]
    except CardError as error:
        raise CommandError(" ".join(error.reasons)) from error
    return [run for runs in found if runs and not _is_known(runs[-1], results) for run in runs]


def _is_known(tuned: Run, results: Path) -> bool:
    return any(run["digest"] == tuned.digest for run in _runs_in(results / f"{tuned.task}.json"))


def _runs_in(path: Path) -> Sequence[dict[str, Any]]:
    return read_file(path).get("runs", ()) if path.exists() else ()


def _write_cards() -> None:
    """Let the cards of the shipped adapters say what was measured here."""
    for found in comparisons():
        directory = settings.DEMO_ADAPTERS_DIR / found.tuned.adapter
        is_ours = found.tuned.source == Run.Source.ENGINE and (directory / NAME).is_file()
        if is_ours and digest_in(directory) == found.tuned.digest:
            write_score(directory / NAME, score_of(found.tuned, found.base))
