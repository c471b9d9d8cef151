"""`python -m tests.bench.distinct`: what a pass of answers takes with few and with many distinct adapters.

32 rows that see 96 positions share 1 to 32 random adapters, on q and v alone (rank 8) and on all seven linears (rank
16), or have none; those with 32 are computed in four passes of eight, too, as a cap would have it. All take turns.
Engine settings come from the environment, as a worker's do.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from statistics import median
from typing import Final

from inference.config import EngineConfig
from inference.model.torch_environment import prepare_torch

prepare_torch()

import torch  # noqa: E402 - set up by what stands before

from inference.engine.engine import Engine  # noqa: E402 - loads torch
from tests.bench.blends import KINDS, random_adapter  # noqa: E402
from tests.bench.parts import ROWS, SHAPES, Passes, own_engine  # noqa: E402

COUNTS: Final = (0, 1, 4, 8, 16, 32)
"""Distinct adapters among the rows."""
CAP: Final = 8
ROUNDS: Final = 20


def main() -> None:
    with own_engine("distinct") as (engine, config):
        told = measure(engine, config)
    print(json.dumps(told))
    for kind, counts in told.items():
        for what, (middle, least) in counts.items():
            print(f"{kind:<20}{what:<24}{middle:>8.2f} ms, at least {least:.2f}", file=sys.stderr)


def measure(engine: Engine, config: EngineConfig) -> dict[str, dict[str, tuple[float, float]]]:
    """The milliseconds of a pass, in the middle and at least, by kind of adapters and by how many there are."""
    passes = Passes(engine, config)
    return {kind: _in_turn(engine, config, passes, *of) for kind, of in KINDS.items()}


def _in_turn(
    engine: Engine, config: EngineConfig, passes: Passes, rank: int, targets: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    for slot in range(max(COUNTS)):
        passes.decoder.bank.put(slot, random_adapter(engine, config, slot, rank, targets).weights)
    ways = {f"{count} adapters": [[row % count if count else -1 for row in range(ROWS)]] for count in COUNTS}
    ways[f"32 by {CAP} a pass"] = [[*range(first, first + CAP)] for first in range(0, ROWS, CAP)]
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, slots in ways.items():
            _seconds(passes, slots)  # what lies in the caches is this way's own
            times[way].append(_seconds(passes, slots))
    return {way: (1000 * median(found), 1000 * min(found)) for way, found in times.items()}


def _seconds(passes: Passes, slots: list[list[int]]) -> float:
    """What one pass for each list of `slots` takes, of a row for each slot."""
    rows = [replace(SHAPES[0].whole, count=len(own), num_sampled=len(own)) for own in slots]
    batches = [
        replace(passes.batch(each), adapter_slots=torch.tensor(own)) for each, own in zip(rows, slots, strict=True)
    ]
    began = time.perf_counter()
    for batch in batches:
        passes.decoder.forward(batch, passes.cache)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
