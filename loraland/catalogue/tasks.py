"""The catalogue's jobs on Celery."""

from __future__ import annotations

from celery import shared_task

from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.validation import examine


@shared_task  # type: ignore[untyped-decorator]
def validate_version(pk: int) -> None:
    """Examine the files of version `pk`, unless that is done or under way."""
    if version := AdapterVersion.objects.claim(pk):
        examine(version)
