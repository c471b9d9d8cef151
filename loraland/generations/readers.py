"""Who still reads: the answers that end when nobody does, and the moment until which each counts as read.

These are the answers of visitors without a name and of programs. The moments lie in Redis, by its own clock, and
every process moves on those of the answers that it follows: one that is killed leaves no sign of a reader behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final, Literal
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.exceptions import RedisError

from loraland.inference_client import redis

logger = logging.getLogger(__name__)

KEY: Final = "answers:unread"
RENEWALS: Final = 4
"""How often a reader shows itself in the time after which an answer without one is ended."""
MOST_AT_ONCE: Final = 256

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
_MOVE: Final = f"{_NOW} for i = 3, #ARGV do redis.call('ZADD', KEYS[1], ARGV[1], now + ARGV[2], ARGV[i]) end"
_PASSED: Final = f"{_NOW} return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])"

_shared: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Readers]] = WeakKeyDictionary()


class Readers:
    """The answers that one event loop follows, and the one task that shows so."""

    def __init__(self) -> None:
        self._read: Counter[str] = Counter()
        self._showing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def reading(self, id: str, is_new: bool = False) -> AsyncIterator[None]:
        """Count as a reader of the answer `id`. That of one that `is_new` need not be shown at once."""
        self._read[id] += 1
        if self._showing is None or self._showing.done():
            self._showing = asyncio.create_task(self._show(), name="readers")
        try:
            if not is_new:
                await _move("XX", [id])
            yield
        finally:
            self._read -= Counter({id: 1})
            if not self._read and self._showing:
                self._showing.cancel()
                self._showing = None  # whoever reads next, in this very moment even, needs a new one

    async def _show(self) -> None:
        while self._read:
            await asyncio.sleep(settings.UNREAD_SECONDS / RENEWALS)
            await _move("XX", list(self._read))


def readers() -> Readers:
    """Those of the running event loop."""
    return _shared.setdefault(asyncio.get_running_loop(), Readers())


async def expect(id: str) -> None:
    """Have the answer `id` end unless somebody reads it; from now on it counts as read for a while."""
    await _move("NX", [id])


async def unread() -> list[str]:
    """Answers that nobody has read for `settings.UNREAD_SECONDS`, ended ones too. Raises `redis.RedisError`."""
    return [str(id) for id in await redis().eval(_PASSED, 1, KEY, MOST_AT_ONCE)]


async def forget(ids: Iterable[str]) -> None:
    """Look after these no more. Raises `redis.RedisError`."""
    if given := list(ids):
        await redis().zrem(KEY, *given)


async def _move(which: Literal["NX", "XX"], ids: list[str]) -> None:
    """Without Redis nothing is read or ended either: whoever ends answers waits until it has been back for a while."""
    try:
        await redis().eval(_MOVE, 1, KEY, which, 1000 * settings.UNREAD_SECONDS, *ids)
    except (RedisError, OSError) as error:
        logger.warning("Cannot show that %d answers are read: %s", len(ids), error)
