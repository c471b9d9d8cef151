"""The catalogue's jobs on Celery, and which of them a version is due for."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from loraland.catalogue import listed, store
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload.validation import examine

Status = AdapterVersion.Status


@shared_task  # type: ignore[untyped-decorator]
def drop_left_uploads() -> None:
    """Remove uploads to which no version refers: a process ended between their files and their row, or after it."""
    named = set(AdapterVersion.objects.exclude(quarantine="").values_list("quarantine", flat=True))
    store.drop_older(store.LEFT_SECONDS, named)


@shared_task  # type: ignore[untyped-decorator]
def complete_lists() -> None:
    """List what an older version of this program has published meanwhile, and no more what it has withdrawn."""
    listed.complete()


@shared_task  # type: ignore[untyped-decorator]
def validate_version(pk: int) -> None:
    """Examine the files of version `pk`, unless that is done or under way."""
    if version := AdapterVersion.objects.claim(pk):
        examine(version)


def resubmit(version: AdapterVersion) -> None:
    """Have the step taken again that was lost on the way: the examination of the files, or the proof."""
    if version.digest and version.status not in (Status.UPLOADED, Status.LISTED):
        return version.probe()
    waiting = AdapterVersion.objects.filter(pk=version.pk, status__in=[Status.UPLOADED, Status.LISTED])
    waiting.update(status=Status.UPLOADED, changed=timezone.now())
    validate_version.delay(version.pk)
    return None


def revalidate(version: AdapterVersion) -> None:
    """Have it validated once more. A published version goes on answering meanwhile. Raises `NotPossible`."""
    version.reopen()
    resubmit(version)
