"""The measurements' job on Celery."""

from __future__ import annotations

from celery import shared_task

from loraland.evals import standings


@shared_task  # type: ignore[untyped-decorator]
def complete_standings() -> None:
    """Put on the leaderboard what is not there yet, and take from it what is hidden by now."""
    standings.complete()
