"""The catalogue's jobs on Celery."""

from __future__ import annotations

from typing import Final

from celery import shared_task

from loraland.catalogue import store
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.validation import examine

LEFT_SECONDS: Final = 24 * 3600
"""How old an upload must be before it counts as left behind."""


@shared_task  # type: ignore[untyped-decorator]
def drop_left_uploads() -> None:
    """Remove uploads to which no version refers: a process ended between their files and their row, or after it."""
    named = set(AdapterVersion.objects.exclude(quarantine="").values_list("quarantine", flat=True))
    store.drop_older(LEFT_SECONDS, named)


@shared_task  # type: ignore[untyped-decorator]
def validate_version(pk: int) -> None:
    """Examine the files of version `pk`, unless that is done or under way."""
    if version := AdapterVersion.objects.claim(pk):
        examine(version)
