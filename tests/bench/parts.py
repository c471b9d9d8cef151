"""`python -m tests.bench.parts`: where the passes of W3 spend their time, and how near each part is to the peak.

A part's time is what a pass takes with it and not without it; all passes are computed in turn, many times, and so is
the peak measured. Engine settings come from the environment, as a worker's do. It asks nothing of a decoder but passes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from inference.config import ConfigError, EngineConfig, read_config
from inference.fetch import find_model
from inference.model.torch_environment import prepare_torch
from tests.bench import peak
from tests.bench.operations import Operations
from tests.bench.random_adapters import write

prepare_torch()

from inference.decoders.batch import Batch, Segment  # noqa: E402 - loads torch
from inference.engine.engine import Engine  # noqa: E402
from inference.model.architecture import read_architecture  # noqa: E402
from inference.tile import TILE  # noqa: E402
from inference.training.scoring import put_into_store  # noqa: E402

ROWS: Final = 32
ADAPTERS: Final = 25
RANK: Final = 8
TARGETS: Final = ("q_proj", "v_proj")
LONG: Final = 96
"""Positions that the rows of a pass see: those of W3's answers see 96 at the mean."""
ROUNDS: Final = 20


@dataclass(frozen=True)
class Rows:
    """One pass: `count` sequences that each compute `length` rows from position `start` on."""

    count: int
    start: int
    length: int
    has_adapters: bool = False
    num_sampled: int = 0

    @property
    def seen(self) -> float:
        """How many positions a row sees, at the mean."""
        return self.start + (self.length + 1) / 2


@dataclass(frozen=True)
class Shape:
    """The passes by which the parts of one kind of pass are found: `whole` has all, `bare` as little as can be."""

    name: str
    bare: Rows
    whole: Rows

    @property
    def passes(self) -> dict[str, Rows]:
        """The bare one, three with one more part each, and the whole."""
        more = {
            "head": {"num_sampled": self.whole.num_sampled},
            "adapters": {"has_adapters": True},
            "attention": {"start": self.whole.start},
        }
        added = {part: replace(self.bare, **changes) for part, changes in more.items()}
        return {"bare": self.bare, **added, "whole": self.whole}


SHAPES: Final = (
    Shape("answers", Rows(ROWS, 15, 1), Rows(ROWS, LONG - 1, 1, True, ROWS)),
    Shape("prompts", Rows(8, 0, TILE), Rows(8, LONG - TILE, TILE, True, 4)),
)
"""32 rows of answers, and 256 of prompts. Attention goes by sixteen positions, of which the bare ones are whole."""


def main() -> None:
    try:
        with own_engine("parts") as (engine, config):
            told = measure(engine, config)
    except (ConfigError, peak.NoPeak) as error:
        print(json.dumps({"refused": str(error)}))
        return
    print(json.dumps(told))
    for line in _lines(told):
        print(line, file=sys.stderr)


@contextmanager
def own_engine(name: str, **settings: Any) -> Iterator[tuple[Engine, EngineConfig]]:
    """An engine as the environment sets it up but for `settings`, in a directory of its own for the program `name`."""
    with tempfile.TemporaryDirectory(prefix=f"loraland-{name}-") as home:
        config = read_config()
        config = replace(config, var_dir=Path(home), base_model=str(find_model(config)), **settings)
        with closing(Engine(config)) as engine:
            yield engine, config


def measure(engine: Engine, config: EngineConfig) -> dict[str, Any]:
    """For each shape its parts with milliseconds, operations a second and their share of the peak."""
    passes = Passes(engine, config)
    instruction = peak.instruction_of(passes.decoder.unit, config.dtype, config.quantization)
    peaks, times = list[float](), {shape.name: dict[str, list[float]]() for shape in SHAPES}
    for _ in range(ROUNDS):
        peaks.append(peak.measure(instruction))
        for shape in SHAPES:
            for part, rows in shape.passes.items():
                times[shape.name].setdefault(part, []).append(passes.seconds(rows))
    limit, counted = median(peaks), Operations(read_architecture(Path(config.base_model) / "config.json"))
    shapes = {shape.name: _parts(shape, times[shape.name], counted, limit) for shape in SHAPES}
    return {"unit": passes.decoder.unit, "instruction": instruction, "peak_gflops": limit / 1e9, **shapes}


class Passes:
    """Passes over the decoder of an engine, with adapters in all its slots and a filled cache."""

    def __init__(self, engine: Engine, config: EngineConfig) -> None:
        runner = engine.machine.runner
        self.decoder, self.cache = runner.decoder, runner.cache
        self._blocks = -(-(LONG + TILE) // config.block_size)
        for slot, digest in enumerate(_digests(config)):
            self.decoder.bank.put(slot, engine.machine.host_cache.load(digest).weights)
        for start in range(0, LONG + TILE, TILE):
            self.seconds(Rows(ROWS, start, TILE))

    def seconds(self, rows: Rows) -> float:
        batch = self.batch(rows)
        began = time.perf_counter()
        self.decoder.forward(batch, self.cache)
        return time.perf_counter() - began

    def batch(self, rows: Rows) -> Batch:
        segments = tuple(self._segment(rows, number) for number in range(rows.count))
        places = [(number, rows.start + step) for number in range(rows.count) for step in range(rows.length)]
        sampled = range(rows.count - rows.num_sampled, rows.count)
        return Batch(
            token_ids=torch.tensor([1000 + 37 * number + position for number, position in places]),
            positions=torch.tensor([position for _, position in places]),
            cache_slots=torch.tensor([self._slot(number, position) for number, position in places]),
            adapter_slots=torch.tensor([number % ADAPTERS if rows.has_adapters else -1 for number, _ in places]),
            decodes=segments if rows.length == 1 else (),
            tiles=segments if rows.length > 1 else (),
            sample_rows=torch.tensor([(number + 1) * rows.length - 1 for number in sampled], dtype=torch.int64),
        )

    def _segment(self, rows: Rows, number: int) -> Segment:
        table = tuple(range(number * self._blocks, (number + 1) * self._blocks))
        return Segment(number * rows.length, rows.length, table, rows.start + rows.length)

    def _slot(self, number: int, position: int) -> int:
        return number * self._blocks * self.cache.block_size + position


def _digests(config: EngineConfig) -> Iterator[str]:
    """`ADAPTERS` random ones, put into the store."""
    for number in range(ADAPTERS):
        path = write(Path(config.base_model), config.var_dir / "made" / str(number), number, RANK, TARGETS)
        yield put_into_store(path, config.adapters_dir)


def _parts(shape: Shape, times: dict[str, list[float]], counted: Operations, limit: float) -> dict[str, Any]:
    """What the differences say. The bare pass sees a few positions too, whose attention is taken off the products."""
    rows = shape.whole.count * shape.whole.length
    added = {part: _difference(times[part], times["bare"]) for part in ("head", "adapters", "attention")}
    a_position = added["attention"] / (shape.whole.start - shape.bare.start)
    whole = {
        "products": (median(times["bare"]) - a_position * shape.bare.seen, rows * counted.products),
        "attention": (a_position * shape.whole.seen, rows * shape.whole.seen * counted.attention),
        "head": (added["head"], shape.whole.num_sampled * counted.head),
        "adapters": (added["adapters"], rows * counted.adapters(RANK, TARGETS)),
    }
    operations = sum(done for _, done in whole.values())
    whole["whole"] = median(times["whole"]), operations
    return {part: _figures(seconds, done, limit) for part, (seconds, done) in whole.items()}


def _difference(longer: Iterable[float], shorter: Iterable[float]) -> float:
    return median(one - other for one, other in zip(longer, shorter, strict=True))


def _figures(seconds: float, operations: float, limit: float) -> dict[str, float]:
    rate = operations / seconds if seconds > 0 else 0.0
    return {"ms": seconds * 1000, "gflops": rate / 1e9, "of_peak": 100 * rate / limit}


def _lines(told: dict[str, Any]) -> Iterator[str]:
    yield f"{told['unit']}: {told['instruction']} reaches {told['peak_gflops']:.0f} GFLOP/s"
    for shape in SHAPES:
        for part, figures in told[shape.name].items():
            yield f"{shape.name:<9}{part:<10}{figures['ms']:>8.2f} ms{figures['of_peak']:>7.1f} % of the peak"


if __name__ == "__main__":
    main()
