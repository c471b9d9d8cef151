"""What the engine has said and the wire does not hold yet: urgent words are written at once, all others together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from inference.wire.contract import Receipt, Wire, Write
from inference.worker.retry import Retry
from inference.worker.running import Running

COALESCE_SECONDS: Final = 0.025
COALESCED_ROWS: Final = 8
"""Past so many answers at once words gather for longer, by more than their number grows."""
LONGEST_COALESCE: Final = 0.2


class Outbox:
    """Writes for all that are `running`, by their ids. `settle` learns what the wire answered to each write."""

    def __init__(
        self,
        wire: Wire,
        running: Mapping[str, Running],
        retry: Retry,
        settle: Callable[[Running, Write, Receipt], Awaitable[None]],
    ) -> None:
        self._wire = wire
        self._running = running
        self._retry = retry
        self._settle = settle
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()

    def mark(self, running: Running) -> None:
        """`running` has something to write."""
        self._dirty.set()
        if running.is_urgent:
            self._urgent.set()

    async def flush(self) -> None:
        """Write what gathers, for ever."""
        while True:
            await self._dirty.wait()
            end = time.monotonic() + self._coalesce_seconds()
            while (left := end - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._urgent.wait(), left)
                    self._urgent.clear()
                    await self._retry.attempt(lambda: self.write(only_urgent=True))
            self._dirty.clear()
            if not await self._retry.attempt(self.write):
                self._dirty.set()

    async def write(self, only_urgent: bool = False) -> None:
        """Write what there is, in one round trip."""
        due = [running for running in self._running.values() if running.is_urgent or not only_urgent]
        offered = [(running, write) for running in due if (write := running.write())]
        receipts = await self._wire.append_all([write for _, write in offered])
        for (running, write), receipt in zip(offered, receipts, strict=True):
            await self._settle(running, write, receipt)

    def _coalesce_seconds(self) -> float:
        """How long words gather. With many readers each piece costs more than it is worth to any of them."""
        crowd = max(1.0, len(self._running) / COALESCED_ROWS)
        return min(COALESCE_SECONDS * crowd**1.5, LONGEST_COALESCE)
