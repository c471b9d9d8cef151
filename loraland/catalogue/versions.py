"""Which versions are meant: those that a reader may hear of, those that answer, and those that wait for a step."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from django.conf import settings
from django.db import models
from django.utils import timezone

from loraland.catalogue.status import ANSWERING, ON_THE_WAY, VersionStatus

if TYPE_CHECKING:
    from loraland.catalogue.models import AdapterVersion

EXAMINATION_LEASE: Final = timedelta(minutes=2)
"""An examination that has not ended after this long is taken to be lost and done again."""

MOST_EXAMINATIONS: Final = 5
"""An examination that broke off so often, without a word, would break off again."""


class Reader(Protocol):
    """Who reads: a user, or an anonymous one, or a visitor (`loraland.generations.visitor`)."""

    @property
    def is_staff(self) -> bool: ...


class AdapterVersionQuerySet(models.QuerySet["AdapterVersion"]):
    def drafts(self) -> AdapterVersionQuerySet:
        """Versions that the public has never seen, as `AdapterVersion.is_draft` says: only staff hear of them."""
        return self.filter(is_draft())

    def seen_by(self, reader: Reader) -> AdapterVersionQuerySet:
        """The versions of which `reader` may hear. Every page, socket and address of the API asks here."""
        return self if reader.is_staff else self.exclude(is_draft())

    def answering(self) -> AdapterVersionQuerySet:
        """Versions that answer to their digest; one that a later one has replaced can still be compared with it."""
        return self.filter(status__in=ANSWERING)

    def claim(self, pk: int) -> AdapterVersion | None:
        """Take the examination of version `pk`; None when another process has it or it is done.

        One that broke off `MOST_EXAMINATIONS` times ends here: its process died, each time, of what it examined.
        """
        now = timezone.now()
        waiting = models.Q(status=VersionStatus.UPLOADED)
        abandoned = models.Q(status=VersionStatus.VALIDATING, digest="", changed__lt=now - EXAMINATION_LEASE)
        claimed = self.filter(waiting | abandoned, pk=pk).update(
            status=VersionStatus.VALIDATING, changed=now, examinations=models.F("examinations") + 1
        )
        if not claimed:
            return None
        version = self.select_related("adapter").get(pk=pk)
        if version.examinations <= MOST_EXAMINATIONS:
            return version
        version.reject([f"Its examination broke off {MOST_EXAMINATIONS} times, as happens when memory runs out."])
        return None

    def awaiting_verdict(self) -> AdapterVersionQuerySet:
        """Versions that need an examination or a worker's proof to go on.

        Those with a `probe_id` have been sent to the workers; when the wire no longer knows that id, and for those
        without one, `resubmit` is due. Left out are versions made for another base than the one served now, and
        those whose proof ended without a verdict until it is time to ask again.
        """
        status, now = VersionStatus, timezone.now()
        stale = now - EXAMINATION_LEASE
        unexamined = models.Q(status=status.UPLOADED) | models.Q(status=status.VALIDATING, digest="")
        halted = models.Q(status__in=[status.VALIDATING, status.LISTED]) & ~models.Q(digest="")
        served = models.Q(adapter__base__iexact=settings.BASE_NAME)
        is_due = models.Q(proof_due__lte=now)
        unproven = (is_due | (models.Q(proof_due=None) & (~models.Q(probe_id="") | halted))) & served
        return self.select_related("adapter").filter((unexamined & models.Q(changed__lt=stale)) | unproven)


def is_draft() -> models.Q:
    """`AdapterVersion.is_draft` as the database understands it."""
    will_be_seen = models.Q(publish_when_ready=True, status__in=ON_THE_WAY)
    return models.Q(published_at=None) & ~models.Q(pk=models.F("adapter__published")) & ~will_be_seen
