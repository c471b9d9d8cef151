"""`manage.py write_readme`: put the table of results into the README."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from loraland.evals.readme import ReadmeError, put, table
from loraland.evals.results import ResultsError


class Command(BaseCommand):
    help = "Make the README's table of results anew from results/*.json."

    def handle(self, *args: Any, **options: Any) -> None:
        path = settings.REPO_DIR / "README.md"
        try:
            path.write_text(put(path.read_text(encoding="utf-8"), table(settings.RESULTS_DIR)), encoding="utf-8")
        except (ReadmeError, ResultsError) as error:
            raise CommandError(str(error)) from error
