"""`python -m tests.bench.blends`: what a pass of answers takes with blends, beside the same rows with plain adapters.

32 rows that see 96 positions have one of 25 random adapters each, or of as many sums or blends of three, on q and v
alone (rank 8) and on all seven linears (rank 16). All ways take turns. Engine settings come from the environment, as a
worker's do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from inference.config import EngineConfig
from inference.model.torch_environment import prepare_torch

prepare_torch()

from inference.adapters.blend import blend  # noqa: E402 - loads torch
from inference.adapters.composition import compose  # noqa: E402
from inference.adapters.file import HostAdapter  # noqa: E402
from inference.adapters.identity import blended_digest, composed_digest  # noqa: E402
from inference.adapters.stored_gate import StoredGate  # noqa: E402
from inference.adapters.weights import AdapterWeights  # noqa: E402
from inference.engine.engine import Engine  # noqa: E402
from inference.training.scoring import put_into_store  # noqa: E402
from inference.wire.protocol import GateRef  # noqa: E402
from tests.bench.parts import ADAPTERS, SHAPES, Passes, own_engine  # noqa: E402
from tests.bench.random_adapters import ALL_SEVEN, write  # noqa: E402
from tests.inference.blends import GATE, flow_gate, ramole_gate  # noqa: E402

PARTS: Final = 3
ROUNDS: Final = 24
KINDS: Final = {"q and v, rank 8": (8, ("q_proj", "v_proj")), "all seven, rank 16": (16, ALL_SEVEN)}


def main() -> None:
    with own_engine("blends") as (engine, config):
        told = measure(engine, config)
    print(json.dumps(told))
    for kind, ways in told.items():
        for way, milliseconds in ways.items():
            share = milliseconds / ways["plain"]
            print(f"{kind:<20}{way:<10}{milliseconds:>8.2f} ms{share:>7.2f} times plain", file=sys.stderr)


def measure(engine: Engine, config: EngineConfig) -> dict[str, dict[str, float]]:
    """The median milliseconds of a pass, by kind of adapters and by way."""
    passes = Passes(engine, config)
    return {kind: _in_turn(engine, config, passes, *of) for kind, of in KINDS.items()}


def _in_turn(
    engine: Engine, config: EngineConfig, passes: Passes, rank: int, targets: tuple[str, ...]
) -> dict[str, float]:
    adapters = [random_adapter(engine, config, number, rank, targets) for number in range(ADAPTERS)]
    ways = _ways(engine, adapters, targets)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, weights in ways.items():
            for slot, own in enumerate(weights):
                passes.decoder.bank.put(slot, own)
            passes.seconds(SHAPES[0].whole)
            times[way].append(passes.seconds(SHAPES[0].whole))
    return {way: 1000 * median(found) for way, found in times.items()}


def random_adapter(
    engine: Engine, config: EngineConfig, number: int, rank: int, targets: tuple[str, ...]
) -> HostAdapter:
    made = config.var_dir / "blended" / f"{rank}-{number}"
    path = write(Path(config.base_model), made, 5000 + 100 * rank + number, rank, targets)
    return engine.machine.host_cache.load(put_into_store(path, config.adapters_dir))


def _ways(engine: Engine, adapters: list[HostAdapter], targets: tuple[str, ...]) -> dict[str, list[AdapterWeights]]:
    """The weights of the slots by way: each adapter alone, or with those after it."""
    arch = engine.machine.runner.decoder.architecture
    ramole = ramole_gate({target: arch.target_shape(target) for target in targets}, arch.num_layers, 8)

    def flow(parts: list[HostAdapter]) -> HostAdapter:
        gate = flow_gate([part.digest for part in parts], arch.num_layers, arch.hidden_size)
        return _blended(parts, GateRef("flow", digest=GATE), gate)

    made: dict[str, Callable[[list[HostAdapter]], HostAdapter]] = {
        "plain": lambda parts: parts[0],
        "sum": lambda parts: compose(_sum_of(parts), [(part, 0.5) for part in parts], 512),
        "arrow": lambda parts: _blended(parts, GateRef("arrow", 2), None),
        "flow": flow,
        "ramole": lambda parts: _blended(parts, GateRef("ramole", digest=GATE), ramole),
    }
    bank = engine.machine.runner.decoder.bank
    groups = [[adapters[(first + step) % ADAPTERS] for step in range(PARTS)] for first in range(ADAPTERS)]
    return {way: [bank.prepare(make(group).weights) for group in groups] for way, make in made.items()}


def _sum_of(parts: list[HostAdapter]) -> str:
    return composed_digest((part.digest, 0.5) for part in parts)


def _blended(parts: list[HostAdapter], ref: GateRef, stored: StoredGate | None) -> HostAdapter:
    digest = blended_digest((part.digest for part in parts), ref.kind, ref.top_k, ref.temperature, ref.digest)
    return blend(digest, [(part, 1.0) for part in parts], ref, stored, 512)


if __name__ == "__main__":
    main()
