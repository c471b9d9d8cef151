"""How many come in at once, in all and from one household."""

from __future__ import annotations

import resource
from collections import Counter
from contextlib import suppress
from typing import Final

from django.conf import settings

RESERVED_FILES: Final = 256
"""Descriptors that a web process keeps for the database, Redis, uploads and static files; half of them at most."""


class Crowd:
    """Counts who is in, by household; a household takes `MAX_CONNECTIONS_PER_ADDRESS` places and no more."""

    def __init__(self) -> None:
        self._inside: Counter[str] = Counter()

    def enter(self, household: str) -> bool:
        """Take a place for `household`, unless it has all of its own."""
        if self._inside[household] >= settings.MAX_CONNECTIONS_PER_ADDRESS:
            return False
        self._inside[household] += 1
        return True

    def leave(self, household: str) -> None:
        self._inside[household] -= 1
        if not self._inside[household]:
            del self._inside[household]


def places() -> int:
    """How many connections this process may hold: `MAX_CONNECTIONS`, or what its limit of open files leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.MAX_CONNECTIONS + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError):  # macOS calls its limit infinite, and takes no more than its kernel's
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY:
        return settings.MAX_CONNECTIONS
    return min(settings.MAX_CONNECTIONS, soft - min(RESERVED_FILES, soft // 2))
