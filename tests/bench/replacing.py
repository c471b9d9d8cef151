"""`python -m tests.bench.replacing`: what it costs those who read that an adapter is replaced ten times a second.

W3 (25 adapters, 32 users) by itself and beside a learner, in turn. The learner loads a new state of one adapter every
tenth of a second, as `/v1/load_lora_adapter` takes it, whether or not the one before has been answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Final

import httpx

from tests.bench import load, site
from tests.bench.random_adapters import write
from tests.bench.record import machine
from tests.bench.workloads import NARROW, WORKLOADS, Prompts

EVERY_SECONDS: Final = 0.1
STATES: Final = 600
QV: Final = ("q_proj", "v_proj")
LEARNER: Final = "learner"


class Learner:
    """Loads one state after the other, and counts how many were answered and how long it took."""

    def __init__(self, url: str, key: str, states: Iterator[Path]) -> None:
        self._states, self.seconds = states, list[float]()
        self._client = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120)

    async def learn(self) -> None:
        async with asyncio.TaskGroup() as loads:
            while True:
                loads.create_task(self._load(next(self._states)))
                await asyncio.sleep(EVERY_SECONDS)

    async def _load(self, state: Path) -> None:
        began = time.perf_counter()
        body = {"lora_name": "policy", "lora_path": str(state), "load_inplace": True}
        answer = await self._client.post("/v1/load_lora_adapter", content=json.dumps(body))
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
        self.seconds.append(time.perf_counter() - began)


async def _rate(target: load.Target, prompts: Prompts, seed: str, learner: Learner | None) -> tuple[float, float]:
    """Tokens a second of W3, and states a second that were loaded beside it."""
    workload = WORKLOADS["w3"]
    learning = asyncio.create_task(learner.learn()) if learner else None
    asks = prompts.asks(workload.models, 3 * workload.requests, seed)
    samples, seconds = await load.serve(target, asks, workload.users)
    num_loaded = len(learner.seconds) if learner else 0
    if learning:
        learning.cancel()
        with suppress(asyncio.CancelledError):
            await learning
    return sum(sample.tokens for sample in samples) / seconds, num_loaded / seconds


def main() -> None:
    options = _options()
    base, states = options.models / options.base, options.home / "states"
    with site.running(options.home, options.models, site.PLAIN | {"LOAD_ADAPTERS_FROM": str(states)}) as running:
        folder = options.home / "random"
        running.import_adapters([write(base, folder / name, seed, 8, QV) for seed, name in enumerate(NARROW)])
        made = (write(base, states / f"{number}", 5000 + number, 8, QV) for number in range(STATES))
        states_in_turn, prompts = cycle(list(made)), Prompts(base)
        running.manage("createsuperuser", "--noinput", "--username", LEARNER, "--email", "learner@example.org")
        key = running.manage("create_api_key", LEARNER, "--user", LEARNER, "--may-load").split()[-1]
        asyncio.run(_rate(running.target, prompts, "warm", None))
        print(
            machine()["processor"], "\n\n| run | alone, tok/s | beside a learner, tok/s | states a second | a load, s |"
        )
        print("|--:|--:|--:|--:|--:|")
        for run in range(1, options.runs + 1):
            alone, _ = asyncio.run(_rate(running.target, prompts, f"alone {run}", None))
            learner = Learner(running.url, key, states_in_turn)
            beside, loaded = asyncio.run(_rate(running.target, prompts, f"beside {run}", learner))
            told = f"{alone:.0f} | {beside:.0f} | {loaded:.1f} | {statistics.median(learner.seconds):.2f}"
            print(f"| {run} | {told} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.replacing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--home", type=Path, default=site.REPO / "var" / "replacing", help="where the site lives")
    parser.add_argument("--models", type=Path, default=site.REPO / "var" / "models", help="where the base lies")
    parser.add_argument("--base", default="SmolLM2-135M-Instruct", help="its name there")
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
