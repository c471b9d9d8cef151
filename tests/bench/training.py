"""What a training costs those who chat meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from redis import Redis

from inference.bases import DEFAULT_BASE_MODEL
from inference.server import queue as training_queue
from inference.server.protocol import Train, TrainingProgress, is_end
from inference.tasks.recipe import RECIPES
from inference.wire.address import embedded_redis_url
from tests.bench.load import serve
from tests.bench.site import Site
from tests.bench.workloads import BASE, Prompts

USERS: Final = 4
REQUESTS: Final = 60
ROWS: Final = 64
UNDISTURBED_SECONDS: Final = 20


def beside_training(site: Site, prompts: Prompts, seed: str) -> dict[str, float]:
    """Milliseconds to the first token and to the last for the slowest twentieth of 4 users' requests: alone, and
    beside a training; and the steps a minute that it makes when nobody chats and meanwhile."""
    told = _p95s("alone", site, prompts, seed)
    with _under_way(site, prompts, seed) as steps:
        before, began = steps(), time.monotonic()
        time.sleep(UNDISTURBED_SECONDS)
        told["steps_alone"] = (steps() - before) * 60 / (time.monotonic() - began)
        before, began = steps(), time.monotonic()
        told |= _p95s("beside", site, prompts, seed)
        told["steps_beside"] = (steps() - before) * 60 / (time.monotonic() - began)
    return told


def _p95s(name: str, site: Site, prompts: Prompts, seed: str) -> dict[str, float]:
    samples, _ = asyncio.run(serve(site.target, prompts.asks(BASE, REQUESTS, f"{seed}-{name}"), USERS))
    place = int(0.95 * len(samples))
    return {
        f"{name}_first_p95_ms": sorted(sample.first for sample in samples)[place] * 1000,
        f"{name}_p95_ms": sorted(sample.last for sample in samples)[place] * 1000,
    }


@contextmanager
def _under_way(site: Site, prompts: Prompts, seed: str) -> Iterator[Callable[[], int]]:
    """A training that has begun and will not end by itself; gives what tells how many steps it has made."""
    id = f"{seed}-{time.time_ns()}"
    _write_rows(site.var_dir / "bench-rows", prompts, seed)
    with Redis.from_url(embedded_redis_url(site.var_dir)) as redis:
        training_queue.submit(redis, Train(id, _endless_recipe(), "bench-rows", f"bench-{id}", DEFAULT_BASE_MODEL))
        try:
            while _steps(redis, id) < 2:
                time.sleep(0.5)
            yield lambda: _steps(redis, id)
        finally:
            training_queue.cancel(redis, id)
            while not any(is_end(event) for _, event in training_queue.events(redis, id)):
                time.sleep(0.5)


def _steps(redis: Redis, id: str) -> int:
    """The steps made so far. Raises RuntimeError when there will be no more."""
    told = [event for _, event in training_queue.events(redis, id)]
    if told and is_end(told[-1]):
        raise RuntimeError(f"the training ended: {told[-1]}")
    return max((event.step for event in told if isinstance(event, TrainingProgress)), default=0)


def _write_rows(folder: Path, prompts: Prompts, seed: str) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"inputs": {"tweet": ask.prompt}, "target": "joy"} for ask in prompts.asks(BASE, ROWS, seed)]
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _endless_recipe() -> str:
    return re.sub(r"(?m)^steps = \d+", "steps = 100000", (RECIPES / "tweet_emotion.toml").read_text())
