"""An asynchronous iterator whose items can be waited for in slices of time without losing one, and taken together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Generic, TypeVar

from loraland.inference_client import cancel

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Reads `items` ahead in one task of its own, so that nobody who waits interrupts the reading."""

    def __init__(self, items: AsyncIterator[Item]) -> None:
        self._items = items
        self._read: list[Item] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read_on(), name="read ahead")

    async def next(self, seconds: float) -> list[Item]:
        """The next items, all that are there by now; none when none has come within `seconds`.

        Raises StopAsyncIteration after the last one, or what reading raised.
        """
        if not self._read and not self._reading.done():
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        read, self._read = self._read, []
        if not read and self._reading.done():
            self._reading.result()
            raise StopAsyncIteration
        return read

    async def aclose(self) -> None:
        await cancel(self._reading)
        if isinstance(self._items, AsyncGenerator):
            await self._items.aclose()

    async def _read_on(self) -> None:
        try:
            async for item in self._items:
                self._read.append(item)
                self._news.set()
        finally:
            self._news.set()
