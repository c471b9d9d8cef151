"""Whether the site can read and keep anything just now: a probe of the database and the disk for /readyz."""

from __future__ import annotations

import asyncio
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import DatabaseError, connection

PATIENCE_SECONDS: Final = 2.0
"""How long a probe may take: one that is not back by then tells of a store that does not answer."""
FRESH_SECONDS: Final = 5.0
"""For how long what was found is told again: whoever asks often costs nothing."""
BUSY_MS: Final = 500
"""How long the probe waits for a lock of SQLite that others hold."""
ROOM_MB: Final = 16
"""A disk with less room than this counts as full."""


@dataclass(frozen=True)
class Storage:
    """`database`: it can be read; `writes`: it can be written; `disk`: there is room for files."""

    database: bool
    writes: bool
    disk: bool


class Probe:
    """Looks in a thread and over a connection of its own, once at a time, however many ask."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "storage-probe")
        self._looking: Future[Storage] | None = None
        self._looked = float("-inf")

    async def look(self) -> Storage:
        """What was found within `FRESH_SECONDS`, or is found now."""
        if self._looking is None or (self._looking.done() and time.monotonic() - self._looked > FRESH_SECONDS):
            self._looking, self._looked = self._thread.submit(look), time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.shield(asyncio.wrap_future(self._looking))
        except TimeoutError:
            return Storage(database=False, writes=False, disk=has_room())

    def forget(self) -> None:
        """Look anew when next asked."""
        self._looked = float("-inf")


probe: Final = Probe()


def look() -> Storage:
    """Read a table that every installation has, and touch none of its rows as a writer."""
    answers = takes_writes = False
    try:
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                cursor.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")
            answers = True
            cursor.execute("UPDATE django_migrations SET name = name WHERE id = -1")
            takes_writes = True
    except DatabaseError:
        pass  # what was reached so far is the finding
    finally:
        connection.close()
    return Storage(answers, takes_writes, has_room())


def has_room() -> bool:
    """Whether the disks of the site's files, and of SQLite's, have room."""
    directories = {settings.VAR_DIR}
    if connection.vendor == "sqlite":
        directories.add(Path(connection.settings_dict["NAME"]).parent)
    try:
        return all(shutil.disk_usage(directory).free >= ROOM_MB * 2**20 for directory in directories)
    except OSError:
        return False
