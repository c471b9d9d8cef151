"""`manage.py write_readme`: put the tables of results into README and docs/results.md."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from loraland.evals.readme import PLACES, ReadmeError, put, table
from loraland.evals.results import ResultsError


class Command(BaseCommand):
    help = "Make the tables of results in README and docs/results.md anew from results/*.json."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            for name, most in PLACES.items():
                path = settings.REPO_DIR / name
                text = put(path.read_text(encoding="utf-8"), table(settings.RESULTS_DIR, most))
                path.write_text(text, encoding="utf-8")
        except (ReadmeError, ResultsError) as error:
            raise CommandError(str(error)) from error
