"""`python -m tests.bench.deadline`: what a wanted first token is worth when more is asked than can be answered.

An open stream of requests, as from strangers who do not wait for each other: gaps between arrivals are exponential, and
25 adapters are asked by Zipf's law. How many the site answers with 32 users is measured first; shares of that are sent,
once as they are and once with `first_token_within`. *Attained* are first tokens in time, of all arrivals, so that what
was refused counts as missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import load, site
from tests.bench.client import Refused, body_of, connect, read
from tests.bench.random_adapters import write
from tests.bench.record import machine
from tests.bench.workloads import NARROW, Ask, Prompts

WITHIN: Final = 2.0
USERS: Final = 32
SHARES: Final = (0.8, 1.2)
ROOM: Final = {"QUEUE_LIMIT": "100000", **site.PLAIN}
"""Nobody is refused because too many wait, so that turns alone decide."""


@dataclass(frozen=True)
class Arrivals:
    """Of one stream: how many came, had their first token in time, and were refused; and the latest first token."""

    num: int
    attained: int
    refused: int
    latest: float

    @property
    def share(self) -> float:
        return self.attained / self.num


async def send(target: load.Target, trace: list[tuple[float, Ask]], within: float) -> Arrivals:
    """Send every request of `trace` when it is due, each on a connection of its own, and wait for all."""
    began = time.perf_counter()

    async def one(due: float, ask: Ask) -> float | None:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        connection = await connect(target.url, target.key)
        wanted = {"first_token_within": within} if within else {}
        told = await connection.post("/v1/completions", body_of(ask) | wanted)
        connection.close()
        try:
            return read(ask, *told).first
        except Refused as error:
            if "429 Too Many" not in str(error):
                raise
            return None

    firsts = await asyncio.gather(*(one(*each) for each in trace))
    told = [first for first in firsts if first is not None]
    return Arrivals(len(trace), sum(first <= WITHIN for first in told), len(trace) - len(told), max(told))


def trace_of(prompts: Prompts, rate: float, seconds: float, seed: int) -> list[tuple[float, Ask]]:
    """Requests with the seconds at which they come."""
    chance, times, at = random.Random(seed), list[float](), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        times.append(at)
    weights = [1 / place for place in range(1, len(NARROW) + 1)]
    models = chance.choices(NARROW, weights, k=len(times))
    drawn = prompts.asks(["base"], len(times), f"{seed} {rate}")
    return [(at, Ask(model, ask.prompt)) for at, model, ask in zip(times, models, drawn, strict=True)]


def main() -> None:
    options = _options()
    base = options.models / options.base
    with site.running(options.home, options.models, ROOM) as running:
        names = [
            write(base, options.home / "random" / name, seed, 8, ("q_proj", "v_proj"))
            for seed, name in enumerate(NARROW)
        ]
        running.import_adapters(names)
        prompts, target = Prompts(base), running.target
        load.measure(target, prompts.asks(NARROW, 2 * USERS, "warm"), USERS)
        _, seconds = asyncio.run(load.serve(target, prompts.asks(NARROW, 8 * USERS, "capacity"), USERS))
        capacity = 8 * USERS / seconds
        print(
            f"{machine()['processor']}; {capacity:.1f} requests a second with {USERS} users; wanted in {WITHIN:g} s\n"
        )
        print(
            "| load | seed | arrivals | attained in turn | latest, s | attained with a deadline | latest, s | refused |"
        )
        print("|--:|--:|--:|--:|--:|--:|--:|--:|")
        for share in SHARES:
            for seed in range(options.seeds):
                trace = trace_of(prompts, share * capacity, options.seconds, seed)
                plain, early = (asyncio.run(send(target, trace, within)) for within in (0.0, WITHIN))
                print(
                    f"| {share:g} | {seed} | {plain.num} | {plain.share:.1%} | {plain.latest:.1f} | {early.share:.1%} "
                    f"| {early.latest:.1f} | {early.refused / early.num:.1%} |",
                    flush=True,
                )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.deadline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=site.REPO / "var" / "deadline", help="where the site lives")
    parser.add_argument("--models", type=Path, default=site.REPO / "var" / "models", help="where the base lies")
    parser.add_argument("--base", default="SmolLM2-135M-Instruct", help="its name there")
    parser.add_argument("--seconds", type=float, default=60, help="how long requests come in each stream")
    parser.add_argument("--seeds", type=int, default=3, help="streams of each load")
    return parser.parse_args()


if __name__ == "__main__":
    main()
