"""What commands that import share: an end for each version, told on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

from django.core.management.base import BaseCommand
from django.db import connection

from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.status import PENDING

POLL_SECONDS: Final = 0.3


class ImportCommand(BaseCommand):
    """Tells of each version what became of it, and counts what was refused."""

    num_refused = 0

    def told(self, slug: str, version: AdapterVersion, count: str = "") -> AdapterVersion | None:
        if version.status == version.Status.REJECTED:
            self.refuse(slug, version.reasons)
            return None
        self.stdout.write(f"{slug}: {version.short_digest} {version.get_status_display()}{count}")
        return version

    def wait(self, versions: Sequence[AdapterVersion], num_sources: int) -> None:
        """Until a worker has proven `versions`, or not."""
        if versions:
            self.stdout.write(f"Waiting for a worker to prove {len(versions)}; Ctrl-C leaves that to the site.")
        waiting = {version.pk: version for version in versions}
        while waiting:
            time.sleep(POLL_SECONDS)
            connection.close_if_unusable_or_obsolete()
            ended = AdapterVersion.objects.filter(pk__in=waiting).exclude(status__in=PENDING)
            for version in ended.select_related("adapter"):
                del waiting[version.pk]
                self.told(version.adapter.slug, version, f" ({num_sources - len(waiting)} of {num_sources})")

    def refuse(self, name: str, reasons: Iterable[str]) -> None:
        self.num_refused += 1
        self.stderr.write("\n".join([f"{name}: refused.", *(f"  - {reason}" for reason in reasons)]))
