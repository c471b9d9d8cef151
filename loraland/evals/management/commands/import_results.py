"""`manage.py import_results`: keep the measurements of `results/*.json` that are not in the database yet."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from loraland.evals import standings
from loraland.evals.results import ResultsError, import_file


class Command(BaseCommand):
    help = "Import measurements from files; those that are known are left alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", nargs="?", type=Path, default=settings.RESULTS_DIR)

    def handle(self, *, directory: Path, **options: Any) -> None:
        try:
            count = sum(import_file(path) for path in sorted(directory.glob("*.json")))
        except ResultsError as error:
            raise CommandError(str(error)) from error
        standings.complete()
        if count:
            self.stdout.write(f"{count} measurements imported.")
