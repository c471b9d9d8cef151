"""What the five workloads do not show: start, fairness, caching, speculation, and adapters by the thousand."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.bench.client import Sample, body_of, connect, read
from tests.bench.load import Target, measure, serve
from tests.bench.site import REPO, Site
from tests.bench.tasks import Task
from tests.bench.workloads import NARROW, Ask, Prompts

QUEUED: Final = 200
PATIENT: Final = 12
"""Requests of the other tenant, one after another."""
CROWD: Final = 2000
CROWD_REQUESTS: Final = 96
LONGEST_WAIT: Final = 45.0
"""Seconds for all of them: beside an unfair queue there would be no end."""
COLD: Final = 20
OVERHEAD_REQUESTS: Final = 160
INSTRUCTION: Final = 512
"""Tokens with which all requests of a task begin: an instruction with a few examples in it."""


def startup(site: Site) -> dict[str, float]:
    """Seconds from the start of one more worker, the model being on disk, until it says that it is ready."""
    began = time.monotonic()
    variables = site.variables | {"WORKER_NAME": f"bench-{time.monotonic_ns()}"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "inference"], cwd=REPO, env=variables, stderr=subprocess.PIPE, text=True
    )
    assert worker.stderr
    try:
        lines = iter(worker.stderr.readline, "")
        if not any(" ready worker=" in line for line in lines):
            raise RuntimeError("a second worker ended before it was ready")
        return {"ready_seconds": time.monotonic() - began}
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate()


def fairness(site: Site, prompts: Prompts, seed: str) -> dict[str, float]:
    """Median milliseconds to a tenant's first token: alone, beside 31 answers of another, and beside its 200."""
    return asyncio.run(_fairness(site, prompts, seed))


async def _fairness(site: Site, prompts: Prompts, seed: str) -> dict[str, float]:
    patient, greedy = site.target_of("patient"), site.target_of("greedy")
    medians = {}
    for name, others in (("alone", 0), ("busy", 31), ("queued", QUEUED)):
        crowd, accepted = None, asyncio.Event()
        if others:
            crowd = asyncio.create_task(_keep_asking(greedy, prompts, others, f"{seed}-{name}", accepted))
            async with asyncio.timeout(LONGEST_WAIT):
                await accepted.wait()
            await asyncio.sleep(2)
        firsts = await _firsts(patient, prompts.asks(NARROW, PATIENT, f"{seed}-{name}-patient"))
        medians[f"{name}_first_ms"] = statistics.median(firsts) * 1000
        if crowd:
            crowd.cancel()
            await asyncio.gather(crowd, return_exceptions=True)
            await asyncio.sleep(1)
    return medians


async def _firsts(target: Target, asks: list[Ask]) -> list[float]:
    """Seconds to the first token of requests one after another; whoever waits too long counts with that time."""
    connection, firsts, end = await connect(target.url, target.key), list[float](), time.monotonic() + LONGEST_WAIT
    for ask in asks:
        try:
            async with asyncio.timeout(end - time.monotonic()):
                firsts.append(read(ask, *await connection.post("/v1/completions", body_of(ask))).first)
        except TimeoutError:
            firsts = firsts or [LONGEST_WAIT]
            break
    connection.close()
    return firsts


async def _keep_asking(target: Target, prompts: Prompts, users: int, seed: str, accepted: asyncio.Event) -> None:
    """`users` requests at every moment, from when all are `accepted`; whoever cancels this hangs up, which stops the
    answers."""
    asks = prompts.asks(NARROW, users, seed)
    connections = [await connect(target.url, target.key) for _ in asks]

    async def user(number: int) -> None:
        while True:
            await connections[number].post("/v1/completions", body_of(asks[number]))

    async def watch() -> None:
        for connection in connections:
            await connection.heard.wait()
        accepted.set()

    try:
        await asyncio.gather(watch(), *(user(number) for number in range(users)))
    finally:
        for connection in connections:
            connection.close()


def overhead(site: Site, prompts: Prompts, seed: str) -> dict[str, float]:
    """Processor seconds per 1,000 tokens of each process while a hollow worker says 1,000 tokens a second."""
    names = [crowd_name(number) for number in range(len(NARROW))]
    run = measure(site.target, prompts.asks(names, OVERHEAD_REQUESTS, seed), 32)
    return {"tokens_per_second": run.tokens_per_second} | run.cpu


def prefix(site: Site, prompts: Prompts, tasks: list[Task], seed: str) -> dict[str, float]:
    """Median milliseconds to the first token of an adapter's first request, and of the next with other inputs.

    What they begin with are the card's examples, or an instruction of `INSTRUCTION` tokens.
    """
    chance, figures = random.Random(seed), dict[str, float]()
    asked = [task for task in tasks if len(task.rows) >= 2]
    for name in ("examples", "instruction"):
        firsts, seconds = list[float](), list[float]()
        for task in asked:
            instruction = prompts.draw(chance, INSTRUCTION) if name == "instruction" else ""
            for times, row in zip((firsts, seconds), chance.sample(task.rows, 2), strict=True):
                text = f"{instruction}\n\n{task.fill(row)}" if instruction else task.shown(row)
                [sample] = _one_by_one(site, [Ask(task.slug, f"({seed}) {text}", tokens=8)])
                times.append(sample.first * 1000)
        figures |= {f"{name}_first_ms": statistics.median(firsts), f"{name}_second_ms": statistics.median(seconds)}
    return figures


def answers_of(site: Site, tasks: list[Task], users: int) -> dict[str, Any]:
    """Tokens a second over the tasks' rows, real ends of sequence included, and the answers in order."""
    asks = [ask for row in zip(*(task.asks() for task in tasks), strict=False) for ask in row]
    samples, seconds = asyncio.run(serve(site.target, asks, users))
    texts = sorted((sample.model, sample.text) for sample in samples)
    return {"tokens_per_second": sum(sample.tokens for sample in samples) / seconds, "texts": texts}


def crowd(site: Site, prompts: Prompts, seed: str) -> dict[str, float]:
    """Tokens a second of 32 users over 25 of the registered adapters, over all by Zipf's law, and over all alike."""
    chance, names = random.Random(seed), [crowd_name(number) for number in range(CROWD)]
    weights = [1 / rank for rank in range(1, CROWD + 1)]
    drawn = {
        "few": [names[number % 25] for number in range(CROWD_REQUESTS)],
        "zipf": chance.choices(names, weights, k=CROWD_REQUESTS),
        "uniform": chance.choices(names, k=CROWD_REQUESTS),
    }
    rates = {}
    for name, models in drawn.items():
        asks = prompts.asks(models, CROWD_REQUESTS, f"{seed}-{name}")
        rates[name] = measure(site.target, asks, 32).tokens_per_second
    return rates


def cold(site: Site, prompts: Prompts, seed: str) -> dict[str, float]:
    """Median milliseconds to the first token of adapters never used before, and of the same ones used again."""
    number = int(seed) * COLD % CROWD
    names = [crowd_name(CROWD - 1 - place) for place in range(number, number + COLD)]
    times = [_one_by_one(site, prompts.asks(names, COLD, f"{seed}-{again}")) for again in ("cold", "warm")]
    medians = [statistics.median(sample.first for sample in samples) * 1000 for samples in times]
    return {"cold_ms": medians[0], "warm_ms": medians[1], "added_ms": medians[0] - medians[1]}


def register_crowd(site: Site, base: Path, count: int = CROWD) -> None:
    """Put so many random adapters of rank 8 into the store and the catalogue, as proven and published."""
    began = time.monotonic()
    done = site.python("-m", "tests.bench.register", str(base), str(count))
    print(f"registered {done.strip()} adapters in {time.monotonic() - began:.0f} s", flush=True)


def crowd_name(number: int) -> str:
    return f"crowd-{number:04}"


def _one_by_one(site: Site, asks: list[Ask]) -> list[Sample]:
    async def ask_all() -> list[Sample]:
        connection = await connect(site.target.url, site.target.key)
        samples = [read(ask, *await connection.post("/v1/completions", body_of(ask))) for ask in asks]
        connection.close()
        return samples

    return asyncio.run(ask_all())
