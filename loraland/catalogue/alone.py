"""Files of the store are referred to, or removed, by one at a time: on all hosts."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import connection, transaction

from loraland import database_lock


@contextmanager
def alone() -> Iterator[None]:
    """Keep others from removing files while a row comes to refer to them, or from referring to what is removed.

    Processes of one host are told apart by a lock on the folder. Hosts share a database, which is PostgreSQL then: its
    lock ends with the transaction, so that nobody who dies keeps it.
    """
    settings.ADAPTERS_DIR.mkdir(parents=True, exist_ok=True)
    directory = os.open(settings.ADAPTERS_DIR, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if connection.vendor != "postgresql":
            yield
            return
        with transaction.atomic():
            database_lock.hold("the store of adapters")
            yield
    finally:
        os.close(directory)
