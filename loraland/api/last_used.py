"""When keys were last used, written down behind the callers' backs: at most once a minute a key, never waited for."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Final

from django.db import DatabaseError, connection, models
from django.utils import timezone

from loraland.api.models import ApiKey

logger = logging.getLogger(__name__)

EVERY: Final = timedelta(minutes=1)


class Notes:
    """Notes uses in a thread and over a connection of its own. One that cannot be written is let go."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "last-used")
        self._noted: dict[int, float] = {}

    def note(self, key: ApiKey) -> None:
        """Have it written down that `key` was used now, unless that was noted within `EVERY`."""
        now = time.monotonic()
        if now - self._noted.get(key.pk, float("-inf")) < EVERY.total_seconds():
            return
        self._noted[key.pk] = now
        if key.last_used is None or key.last_used <= timezone.now() - EVERY:
            self._thread.submit(_write, key.pk, timezone.now())


notes: Final = Notes()


def _write(pk: int, used: datetime) -> None:
    stale = models.Q(last_used=None) | models.Q(last_used__lte=used - EVERY)
    try:
        ApiKey.objects.filter(stale, pk=pk).update(last_used=used)
    except DatabaseError as error:
        logger.warning("Cannot note that key %s was used: %s", pk, error)
    finally:
        connection.close()
