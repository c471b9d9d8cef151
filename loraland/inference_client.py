"""The site's end of the wire: one `RedisWire` per event loop, and what the workers tell of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from asgiref.sync import async_to_sync
from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis

from inference.wire.contract import Wire
from inference.wire.protocol import Heartbeat, Probe, QueueClass
from inference.wire.redis_wire import RedisWire
from loraland import bases
from loraland.bases import Base

CANCEL_AGAIN_SECONDS: Final = 0.1

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()
_wires: WeakKeyDictionary[asyncio.AbstractEventLoop, RedisWire] = WeakKeyDictionary()
_plugged: list[Wire] = []


def redis() -> Redis:
    """A plain Redis client for the running event loop (quotas, metrics); connections never cross loops."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        pool = BlockingConnectionPool.from_url(
            settings.REDIS_URL, max_connections=16, timeout=20, decode_responses=True, socket_timeout=5
        )
        _clients[loop] = Redis.from_pool(pool)
    return _clients[loop]


def wire() -> Wire:
    """The wire of the running event loop, or the one that a test has plugged in."""
    if _plugged:
        return _plugged[-1]
    loop = asyncio.get_running_loop()
    if loop not in _wires:
        _wires[loop] = RedisWire.connect(settings.REDIS_URL)
    return _wires[loop]


async def close() -> None:
    """Close what the running event loop holds. The next `wire()` opens it anew."""
    loop = asyncio.get_running_loop()
    if opened := _wires.pop(loop, None):
        await opened.aclose()
    if client := _clients.pop(loop, None):
        await client.aclose()


async def cancel(call: asyncio.Future[Any]) -> None:
    """End a task that waits for Redis, asking again until it heeds: on Python 3.11 `asyncio.wait_for`, through which
    the Redis client writes, forgets a cancellation that comes in the moment in which the write ends.
    """
    while not call.done():
        call.cancel()
        await asyncio.wait({call}, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(call, return_exceptions=True)


@contextmanager
def plugged(wire: Wire) -> Iterator[Wire]:
    """Let the whole site speak over `wire` (a `MemoryWire`, say) instead of the one over `REDIS_URL`."""
    _plugged.append(wire)
    try:
        yield wire
    finally:
        _plugged.remove(wire)


async def live_workers() -> list[Heartbeat]:
    """The heartbeats of the workers of all bases that this site serves, ready or still loading."""
    return [worker for base in bases.served() for worker in await workers_of(base)]


async def workers_of(base: Base) -> list[Heartbeat]:
    """The heartbeats of the workers that serve `base`, ready or still loading."""
    return await wire().heartbeats(base.key)


async def ready_worker(base: Base) -> Heartbeat | None:
    """A worker with `base` loaded; all of them serve it alike."""
    return next((worker for worker in await workers_of(base) if worker.ready), None)


async def context_length(base: Base) -> int:
    """How many tokens a prompt and its answer may have together; 0 while no worker is ready to tell."""
    worker = await ready_worker(base)
    return worker.load.context_length if worker else 0


@async_to_sync
async def submit_probe(probe: Probe, base: Base) -> None:
    """Send `probe` to the workers of `base`, from synchronous code (Celery, commands, the admin, a recorder's thread).

    It has a connection of its own, since it may run in any loop, unless that one has a wire already. Raises
    `inference.wire.contract.WireError` (a full queue, no Redis); the reconciler sees to a probe that was lost.
    """
    async with _own_wire() as wire:
        queue_class: QueueClass = "chat" if probe.is_awaited else "evaluation"
        await wire.submit(probe, base.key, queue_class, settings.QUEUE_LIMIT)


@asynccontextmanager
async def _own_wire() -> AsyncIterator[Wire]:
    if _plugged or asyncio.get_running_loop() in _wires:
        yield wire()
        return
    async with RedisWire.connect(settings.REDIS_URL) as own:
        yield own
