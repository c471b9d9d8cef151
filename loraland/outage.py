"""What it means when the database cannot be asked or written, or the disk takes no more: decided here for pages, the
API, sockets, jobs and commands alike. It is nobody's request that is at fault, and trying again may help.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.db import DatabaseError, InterfaceError, OperationalError

from inference.objects.failures import StoreAway

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 10
SENTENCE: Final = "The site cannot read or keep anything right now; try again in a moment."
_NO_STORE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


def is_outage(error: BaseException | None) -> bool:
    """Whether `error`, or what it was raised from, says that database, disk or store cannot do their work now.

    A value that a database refuses is a defect of ours and not meant, nor is a row that has gone.
    """
    while error is not None:
        if isinstance(error, OperationalError | InterfaceError | StoreAway) or _is_damage(error):
            return True
        if isinstance(error, OSError) and error.errno in _NO_STORE:
            return True
        error = error.__cause__
    return False


def note(error: BaseException, what: str) -> None:
    """Log an outage in one line: a traceback for each of a thousand requests would fill the disk that is full."""
    logger.error("%s: the store fails: %s", what, " ".join(str(error).split())[:300])


@contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Go on behind the block where an outage ends it; `what` it was about is logged."""
    try:
        yield
    except Exception as error:
        if not is_outage(error):
            raise
        note(error, what)


def _is_damage(error: BaseException) -> bool:
    """A file that is no database any more; Django raises the same class where a row has gone."""
    return type(error) is DatabaseError and isinstance(error.__cause__, sqlite3.DatabaseError)
