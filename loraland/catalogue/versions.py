"""Which versions are meant: those that a reader may hear of, those that answer, and those that wait for a step."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from django.db import models
from django.utils import timezone

from loraland import bases
from loraland.catalogue import listed
from loraland.catalogue.status import ANSWERING, ON_THE_WAY, VersionStatus
from loraland.refusal import Refused

if TYPE_CHECKING:
    from loraland.catalogue.models import AdapterVersion

SLUG: Final = re.compile(r"[-\w]{1,80}", re.ASCII)
NAME: Final = re.compile(r"[-\w]{1,80}(@[0-9a-f]{6,64})?", re.ASCII)
"""An adapter's slug, or ``slug@prefix`` for the version whose digest begins so."""

EXAMINATION_LEASE: Final = timedelta(minutes=2)
"""An examination that has not ended after this long is taken to be lost and done again."""

MOST_EXAMINATIONS: Final = 5
"""An examination that broke off so often, without a word, would break off again."""


class Reader(Protocol):
    """Who reads: a user, or an anonymous one, or a visitor (`loraland.generations.visitor`)."""

    @property
    def is_staff(self) -> bool: ...


class AdapterVersionQuerySet(models.QuerySet["AdapterVersion"]):
    def update(self, **values: Any) -> int:
        """As any, and lists hear of it."""
        if not listed.OF_VERSION & values.keys():
            return super().update(**values)
        pks = list(self.order_by().values_list("adapter", flat=True).distinct())
        number = super().update(**values)
        listed.keep(pks)
        return number

    def drafts(self) -> AdapterVersionQuerySet:
        """Versions that the public has never seen, as `AdapterVersion.is_draft` says: only staff hear of them."""
        return self.filter(is_draft())

    def seen_by(self, reader: Reader) -> AdapterVersionQuerySet:
        """The versions of which `reader` may hear. Every page, socket and address of the API asks here."""
        return self if reader.is_staff else self.exclude(is_draft())

    def answering(self) -> AdapterVersionQuerySet:
        """Versions that may answer to their digest, as `AdapterVersion.is_answering` says."""
        return self.filter(status__in=ANSWERING).exclude(status=VersionStatus.RETIRED, adapter__published=None)

    def served(self) -> AdapterVersionQuerySet:
        """Versions made for a base that this site serves."""
        return self.filter(bases.is_served("adapter__base"))

    def shown(self) -> AdapterVersionQuerySet:
        """The one version of each adapter that stands for it in the catalogue."""
        return self.select_related("adapter__published").filter(pk=models.F("adapter__published"))

    def named(self, name: str) -> AdapterVersion:
        """The one version called `name`, with its adapter; a slug alone means the one that is shown. Raises `Refused`.

        Only adapters that show a version have a name. Those made for another base have one too: pages show them
        greyed out, and `generations.start` refuses them by that reason. Who wants none of them asks the `served`.
        """
        slug, _, prefix = (name if NAME.fullmatch(name) else "").partition("@")
        versions = self._of_digest(slug, prefix) if prefix else self.shown_as(slug)
        found = list(versions[:2])
        if len(found) > 1:
            sentence = f"More than one version is called {name!r}; give more of its digest."
            raise Refused("model_not_found", sentence, param="model")
        if not found:
            raise unknown(name)
        [version] = found
        if not prefix:
            version.adapter.published = version
        return version

    def _of_digest(self, slug: str, prefix: str) -> AdapterVersionQuerySet:
        versions = self.select_related("adapter__published").filter(adapter__slug=slug, digest__startswith=prefix)
        return versions.answering().filter(adapter__published__isnull=False).order_by()

    def shown_as(self, slug: str) -> AdapterVersionQuerySet:
        """`shown` of one adapter, fetched once and not a second time as what its adapter publishes."""
        versions = self.select_related("adapter").filter(pk=models.F("adapter__published"))
        return versions.filter(adapter__slug=slug).order_by()

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

    def awaiting_proof(self) -> AdapterVersionQuerySet:
        """Versions that need an examination or a worker's proof to go on.

        Those with a `probe_id` have been sent to the workers; when the wire no longer knows that id, and for those
        without one, that step is due again. Left out are versions made for another base than the one served now, and
        those whose proof said nothing of them until it is time to ask again.
        """
        status, now = VersionStatus, timezone.now()
        stale = now - EXAMINATION_LEASE
        unexamined = models.Q(status=status.UPLOADED) | models.Q(status=status.VALIDATING, digest="")
        halted = models.Q(status__in=[status.VALIDATING, status.LISTED]) & ~models.Q(digest="")
        is_due = models.Q(proof_due__lte=now)
        unproven = is_due | (models.Q(proof_due=None) & (~models.Q(probe_id="") | halted))
        unproven &= bases.is_served("adapter__base")
        return self.select_related("adapter").filter((unexamined & models.Q(changed__lt=stale)) | unproven)


def unknown(name: str) -> Refused:
    """What is told of a name that means nothing to who asks: it never was, is hidden, or has been withdrawn."""
    sentence = f"No adapter called {name[:160]!r} is published; choose another."
    return Refused("model_not_found", sentence, param="model")


def is_draft() -> models.Q:
    """`AdapterVersion.is_draft` as the database understands it."""
    will_be_seen = models.Q(publish_when_ready=True, status__in=ON_THE_WAY)
    return models.Q(published_at=None) & ~models.Q(pk=models.F("adapter__published")) & ~will_be_seen
