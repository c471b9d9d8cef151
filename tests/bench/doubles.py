"""Workers around engines that keep time and compute nothing, each a process of its own, and whoever asks them.

`python -m tests.bench.doubles URL NAME PATIENCE PACE` is one such process.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Final

import uvloop

from inference.wire.protocol import AdapterRef, Finished, Generate, Sampling
from inference.wire.redis_wire import RedisWire
from inference.worker.worker import Worker, WorkerConfig
from tests.bench.site import REPO
from tests.bench.slotted import Pace, SlottedEngine

BASE: Final = "doubles"
TENANTS: Final = 20
GRACE_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Asked:
    """One stream of requests: `rate` a second for the adapters that `chosen` draws, under names that begin alike."""

    name: str
    rate: float
    digests: Sequence[str]
    weights: Sequence[float]
    tokens: int = 24


@dataclass
class Heard:
    """What became of the requests: of each its first token's ms, and whether its adapter was there."""

    firsts: list[float] = field(default_factory=list)
    hits: int = 0

    def take(self, end: Finished) -> None:
        self.firsts.append(end.stats.first_token_ms)
        self.hits += end.stats.load_ms == 0

    def at(self, share: float) -> float:
        return sorted(self.firsts)[int(share * (len(self.firsts) - 1))]


def digest_of(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4


def zipf(num: int) -> list[float]:
    """The law by which the first adapter is asked for twice as often as the second."""
    return [1 / rank for rank in range(1, num + 1)]


@asynccontextmanager
async def workers(url: str, names: Sequence[str], patience: float, pace: Pace) -> AsyncIterator[None]:
    """A process for each of `names`, all ready."""
    arguments = ["-m", "tests.bench.doubles", url]
    rest = [str(patience), json.dumps(asdict(pace))]
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, *arguments, name, *rest, cwd=REPO) for name in names
    ]
    try:
        async with RedisWire.connect(url) as wire, asyncio.timeout(60):
            while sum(beat.ready for beat in await wire.heartbeats(BASE)) < len(names):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(process.wait() for process in processes))


async def ask(wire: RedisWire, streams: Sequence[Asked], seconds: float) -> dict[str, Heard]:
    """Send `streams` for so long, each by chance and whatever is answered, and wait for every end."""
    waiting: set[str] = set()
    sending = [asyncio.create_task(_send(wire, asked, seconds, waiting)) for asked in streams]
    heard = {asked.name: Heard() for asked in streams}
    await _hear(wire, heard, waiting, sending, time.monotonic() + seconds + GRACE_SECONDS)
    await asyncio.gather(*sending)
    return heard


async def ask_each(wire: RedisWire, digests: Sequence[str]) -> None:
    """Ask once for each of `digests`, and wait for every end."""
    requests = [request_of("once", number, digest, "t", 1) for number, digest in enumerate(digests)]
    for request in requests:
        await wire.submit(request, BASE, "chat", 100_000)
    waiting = {request.id for request in requests}
    await _hear(wire, {"once": Heard()}, waiting, [], time.monotonic() + GRACE_SECONDS)


async def keep_full(wire: RedisWire, asked: Asked, num: int, heard: Heard, end: asyncio.Event) -> None:
    """Have `num` requests under way, a new one for each that ends, until `end`; then wait for all ends. Their lengths
    are `asked.tokens` and up to half more or less, so that rows do not end in step."""
    draw = random.Random(asked.name)
    digests, number, live = drawn(draw, asked), 0, 0
    while live or not end.is_set():
        for _ in range(0 if end.is_set() else num - live):
            number, live = number + 1, live + 1
            tokens = draw.randint(asked.tokens // 2, asked.tokens * 3 // 2)
            request = request_of(asked.name, number, next(digests), f"t{draw.randrange(TENANTS)}", tokens)
            await wire.submit(request, BASE, "chat", 100_000)
        entries = await wire.finished("bench", 500, 50)
        for _, _, finished in entries:
            assert isinstance(finished, Finished), finished
            heard.take(finished)
        live -= len(entries)
        await wire.committed({entry: finished.id for entry, _, finished in entries}, 1)


async def _hear(
    wire: RedisWire,
    heard: dict[str, Heard],
    waiting: set[str],
    sending: Sequence[asyncio.Task[None]],
    deadline: float,
) -> None:
    """Take every end until all is sent and nobody is waiting."""
    while waiting or not all(task.done() for task in sending):
        assert time.monotonic() < deadline, f"{len(waiting)} requests were not answered in time"
        entries = await wire.finished("bench", 500, 200)
        for _, _, end in entries:
            assert isinstance(end, Finished), end
            waiting.discard(end.id)
            heard[end.id.partition("-")[0]].take(end)
        await wire.committed({entry: end.id for entry, _, end in entries}, 1)


async def _send(wire: RedisWire, asked: Asked, seconds: float, waiting: set[str]) -> None:
    draw = random.Random(asked.name)
    due = began = time.monotonic()
    calls = set[asyncio.Task[None]]()
    for number, digest in enumerate(drawn(draw, asked)):
        due += draw.expovariate(asked.rate)
        if due > began + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        request = request_of(asked.name, number, digest, f"t{draw.randrange(TENANTS)}", asked.tokens)
        waiting.add(request.id)
        calls.add(call := asyncio.create_task(wire.submit(request, BASE, "chat", 100_000)))
        call.add_done_callback(calls.discard)
    await asyncio.gather(*calls)


def request_of(name: str, number: int, digest: str, tenant: str, tokens: int) -> Generate:
    return Generate(
        id=f"{name}-{number}-{time.monotonic_ns()}",
        adapter=AdapterRef(digest),
        prompt="hi",
        sampling=Sampling(max_tokens=tokens),
        tenant=tenant,
        created=time.time(),
    )


def drawn(draw: random.Random, asked: Asked) -> Iterator[str]:
    """Adapters as they are asked for, for ever."""
    while True:
        yield from draw.choices(asked.digests, asked.weights, k=1000)


async def main(url: str, name: str, patience: str, pace: str) -> int:
    async with RedisWire.connect(url, patience=float(patience)) as wire:
        worker = Worker(wire, lambda: SlottedEngine(Pace(**json.loads(pace))), WorkerConfig(BASE, name))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.close)
        return await worker.run()


if __name__ == "__main__":
    os._exit(uvloop.run(main(*sys.argv[1:])))
