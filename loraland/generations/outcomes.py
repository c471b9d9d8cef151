"""Which answers have ended, told to all who wait in silence by one question to the database now and then."""

from __future__ import annotations

import asyncio
import time
from typing import Final
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.db import aclose_old_connections

from loraland.generations.models import Generation

_shared: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Outcomes]] = WeakKeyDictionary()


class Outcomes:
    """What one event loop knows of the rows: those that had no outcome when it last asked."""

    def __init__(self) -> None:
        self._unfinished: frozenset[UUID] = frozenset()
        self._asked = float("-inf")
        self._asking = asyncio.Lock()

    async def has_ended(self, id: UUID, seconds: float) -> bool:
        """Whether the row `id`, which is older than `seconds`, had an outcome within the last `seconds`."""
        async with self._asking:
            if time.monotonic() - self._asked >= seconds:
                asked = time.monotonic()
                try:
                    rows = Generation.objects.unfinished().order_by().values_list("pk", flat=True)
                    self._unfinished = frozenset([pk async for pk in rows])
                finally:
                    await aclose_old_connections()
                self._asked = asked
        return id not in self._unfinished


def outcomes() -> Outcomes:
    """Those of the running event loop."""
    return _shared.setdefault(asyncio.get_running_loop(), Outcomes())
