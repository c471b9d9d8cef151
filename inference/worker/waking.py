"""When a worker asks for requests: at once for what is its own, and later, once, for what is meant for others."""

from __future__ import annotations

import asyncio
import contextlib
import time


class Alarm:
    """Rings at the earliest of the times for which it was set since it rang last."""

    def __init__(self) -> None:
        self._due = float("inf")
        self._changed = asyncio.Event()

    def set(self, seconds: float = 0.0) -> None:
        """Ring in so many seconds, or earlier."""
        due = time.monotonic() + seconds
        if due < self._due:
            self._due = due
            self._changed.set()

    async def wait(self, longest: float) -> None:
        """Return when it rings, and after `longest` seconds at the latest."""
        self.set(longest)
        while (left := self._due - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        self._due = float("inf")


class Stopwatch:
    """For how long something has been so."""

    def __init__(self) -> None:
        self._since: float | None = None

    def note(self, is_so: bool) -> None:
        """Tell whether it is so now."""
        if not is_so:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return 0.0 if self._since is None else time.monotonic() - self._since
