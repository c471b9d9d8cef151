"""`manage.py export_results`: write the measurements that count into `results/*.json`, for a fresh clone to show."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.tasks.card import CARD, write_score
from loraland.catalogue import store
from loraland.catalogue.card import CardError
from loraland.evals.cards import runs_of_card, score_of
from loraland.evals.counting import comparisons, counting, drawn_answers
from loraland.evals.models import Run
from loraland.evals.results import as_data, read_file, write_file
from loraland.evals.task_facts import facts_of


class Command(BaseCommand):
    help = "Write the newest finished runs of each task as aggregates, and the drawn rows that may be given on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", nargs="?", type=Path, default=settings.RESULTS_DIR)
        parser.add_argument(
            "--cards", nargs="+", type=Path, default=[], metavar="DIR", help="take scores from these adapters' cards"
        )

    def handle(self, *, directory: Path, cards: list[Path], **options: Any) -> None:
        counted = _of_cards(cards, directory) if cards else counting(Run.objects.public())
        by_task: dict[str, list[Run]] = defaultdict(list)
        for run in counted:
            by_task[run.task].append(run)
        for task, measured in sorted(by_task.items()):
            drawn = [] if facts_of(task).restricted else drawn_answers(measured)
            runs = [as_data(run) for run in measured] + [as_data(run, run.samples.all()) for run in drawn]
            path = write_file(task, directory, runs=runs)
            self.stdout.write(f"{path.name}: {len(measured)} runs{', drawn rows' if drawn else ''}")
        if not cards:
            _write_cards()


def _of_cards(directories: Iterable[Path], results: Path) -> list[Run]:
    """The runs on the cards of adapters for whose weights there are none in `results`."""
    try:
        found = [runs_of_card(directory) for directory in directories if (directory / CARD).is_file()]
    except CardError as error:
        raise CommandError(" ".join(error.reasons)) from error
    files = (read_file(path) for path in results.glob("*.json"))
    known = {(file["task"], run["digest"]) for file in files for run in file.get("runs", ())}
    return [run for runs in found if runs and (runs[-1].task, runs[-1].digest) not in known for run in runs]


def _write_cards() -> None:
    """Let the cards of the shipped adapters say what was measured here."""
    for found in comparisons():
        directory = settings.DEMO_ADAPTERS_DIR / found.tuned.adapter
        is_ours = found.tuned.source == Run.Source.ENGINE and (directory / CARD).is_file()
        if is_ours and store.digest_in(directory) == found.tuned.digest:
            write_score(directory / CARD, score_of(found))
