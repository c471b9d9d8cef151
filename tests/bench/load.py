"""Users who send, read the whole stream and send again, and what that says of the server."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from tests.bench.client import Connection, Sample, body_of, connect, read
from tests.bench.processes import Meter
from tests.bench.workloads import Ask


@dataclass(frozen=True)
class Target:
    """Where to send: the address of a server, a key for it, and the processes at the roots of all its processes."""

    url: str
    key: str
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Figures:
    """One run: tokens a second over all users, times in milliseconds, processor seconds per 1,000 tokens by process.

    `strangers` is the share of one processor that others on the machine took.
    """

    tokens_per_second: float
    first_ms: float
    first_p95_ms: float
    next_ms: float
    cpu: dict[str, float]
    strangers: float


async def serve(target: Target, asks: Iterable[Ask], users: int) -> tuple[list[Sample], float]:
    """Send all `asks`, `users` at a time; the samples in their order, and the seconds it took."""
    waiting, ended = deque(enumerate(asks)), dict[int, tuple[Ask, float, list[tuple[float, bytes]]]]()
    connections = [await connect(target.url, target.key) for _ in range(users)]

    async def user(connection: Connection) -> None:
        while waiting:
            number, ask = waiting.popleft()
            ended[number] = ask, *await connection.post("/v1/completions", body_of(ask))

    began = time.perf_counter()
    await asyncio.gather(*map(user, connections))
    seconds = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return [read(*ended[number]) for number in sorted(ended)], seconds


def measure(target: Target, asks: list[Ask], users: int) -> Figures:
    """One run, with what every process spent on it."""
    meter, client = Meter.start(*target.pids), time.process_time()
    samples, seconds = asyncio.run(serve(target, asks, users))
    cpu, strangers = meter.since()
    cpu["client"] = time.process_time() - client
    return figures(samples, seconds, cpu, strangers - cpu["client"])


def figures(samples: list[Sample], seconds: float, cpu: dict[str, float], strangers: float) -> Figures:
    tokens = sum(sample.tokens for sample in samples)
    firsts = sorted(sample.first * 1000 for sample in samples)
    return Figures(
        tokens_per_second=tokens / seconds,
        first_ms=statistics.median(firsts),
        first_p95_ms=firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
        next_ms=statistics.median(sample.per_token for sample in samples) * 1000,
        cpu={name: round(value * 1000 / tokens, 4) for name, value in cpu.items()},
        strangers=max(0.0, strangers) / seconds,
    )
