"""`python -m tests.bench.pipeline`: a base in stages beside one process with as many threads, and how long stages wait.

Passes of 32 rows of answers and of 256 rows of prompts, 25 adapters among them, with the base in one process and in
`--stages`, each pass in `--micro` micro-batches. A stage has one thread, on a core of its own as far as there are any;
one process has one for each core. How long a stage waited is told beside what the formula says, (D - 1) / (m + D - 1).
Engine settings come from the environment, as a worker's do; `--size` makes a random base of real size.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from inference.model.torch_environment import prepare_torch
from tests.bench.record import machine
from tests.bench.site import REPO

prepare_torch()

from inference.engine.engine import Engine  # noqa: E402 - loads torch
from inference.model.gguf.directory import write_directory  # noqa: E402
from inference.model.heap import resident_bytes  # noqa: E402
from inference.wire.protocol import StageLoad  # noqa: E402
from tests.bench.parts import SHAPES, Passes, Shape, own_engine  # noqa: E402
from tests.bench.sizes import SIZES, write_random  # noqa: E402

WARM: Final = 2
ONE: Final = "--one"


def main() -> None:
    options = _options()
    if options.one:
        measure(options)
        return
    print(f"{machine()['processor']}, {os.cpu_count()} cores\n")
    counts = [1, *options.stages]
    told = {count: _apart(count, options) for count in counts}
    print("| stages | layers | MB each | most MB while loading |\n|--:|---|---|---|")
    for count, figures in told.items():
        print(f"| {count} | {figures['layers']} | {_listed(figures['memory'])} | {_listed(figures['peak'])} |")
    print("\n| stages | parts | pass | ms | tok/s | beside one process | waited, by stage | formula |")
    print("|--:|--:|---|--:|--:|--:|---|--:|")
    for line in _lines(told):
        print(line)


def _apart(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of `count` stages, from a process of its own, whose memory is nobody else's."""
    command = [sys.executable, "-m", "tests.bench.pipeline", ONE, str(count), "--rounds", str(options.rounds)]
    command += ["--micro", ",".join(map(str, options.micro))]
    run = subprocess.run(command, cwd=REPO, env=_environment(options), stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return told


def _environment(options: argparse.Namespace) -> dict[str, str]:
    if not options.size:
        return dict(os.environ)
    path, directory = options.home / f"{options.size}.gguf", options.home / options.size
    if not path.is_file():
        write_random(path, SIZES[options.size])
    if not directory.is_dir():
        directory.mkdir()
        write_directory(path, directory)
    return {**os.environ, "BASE_MODEL": str(directory)}


def measure(options: argparse.Namespace) -> None:
    """Print the figures of `options.one` stages as one line of JSON."""
    count, cores = options.one, os.cpu_count() or 1
    threads = cores if count == 1 else 1
    with own_engine("pipeline", stages=count, threads=threads) as (engine, config):
        passes = Passes(engine, config)
        stages = engine.load.stages or (StageLoad(0, 0, 0, process=os.getpid()),)
        if count > 1:
            for number, stage in enumerate(stages):
                _pin(stage.process, number % cores)
        figures = [
            _measured(engine, passes, shape, num_micro, options.rounds)
            for shape in SHAPES
            for num_micro in (options.micro if count > 1 else [1])
        ]
        memory = [_memory(stage.process) for stage in stages]
        told = {
            "layers": ", ".join(str(stage.end - stage.first) for stage in stages) if count > 1 else "all",
            "memory": [now for now, _ in memory],
            "peak": [most for _, most in memory],
            "passes": figures,
        }
    print(json.dumps(told))


def _measured(engine: Engine, passes: Passes, shape: Shape, num_micro: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a pass, and the share of all passes that each stage waited."""
    if engine.load.stages:
        passes.decoder.num_micro = num_micro  # type: ignore[attr-defined]
    for _ in range(WARM):
        passes.seconds(shape.whole)
    before = _busy(passes)
    times = [passes.seconds(shape.whole) for _ in range(rounds)]
    waited = [1 - (after - had) / sum(times) for had, after in zip(before, _busy(passes), strict=True)]
    rows = shape.whole.count * shape.whole.length
    return {"shape": shape.name, "micro": num_micro, "ms": median(times) * 1000, "rows": rows, "waited": waited}


def _busy(passes: Passes) -> list[float]:
    passes.decoder._asked = float("-inf")  # type: ignore[attr-defined]
    return [stage.busy_seconds for stage in passes.decoder.stages]


def _pin(process: int, core: int) -> None:
    """Every thread of `process` to one core."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _memory(process: int) -> tuple[float, float]:
    """What a process has in memory, and the most that it ever had, in MB."""
    try:
        told = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return resident_bytes() / 1e6, 0.0
    now, most = (re.search(rf"{what}:\s+(\d+) kB", told) for what in ("VmRSS", "VmHWM"))
    assert now
    assert most
    return int(now[1]) * 1024 / 1e6, int(most[1]) * 1024 / 1e6


def _lines(told: dict[int, dict[str, Any]]) -> Iterator[str]:
    alone = {figures["shape"]: figures["ms"] for figures in told[1]["passes"]}
    for count, found in told.items():
        for figures in found["passes"]:
            micro, shape, ms = figures["micro"], figures["shape"], figures["ms"]
            waited = ", ".join(f"{100 * share:.0f} %" for share in figures["waited"]) or "–"
            formula = f"{100 * (count - 1) / (micro + count - 1):.0f} %" if count > 1 else "–"
            speed = 1000 * figures["rows"] / ms
            beside = f"{alone[shape] / ms:.2f}"
            yield f"| {count} | {micro} | {shape} | {ms:.1f} | {speed:.0f} | {beside} | {waited} | {formula} |"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:,.0f}" for value in values)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", type=_numbers, default=[2, 4], help="how many, with commas between")
    parser.add_argument("--micro", type=_numbers, default=[1, 2, 4, 8], help="micro-batches of a pass, likewise")
    parser.add_argument("--rounds", type=int, default=20, help="passes of each kind")
    parser.add_argument("--size", choices=SIZES, help="a random base in place of BASE_MODEL")
    parser.add_argument("--home", type=Path, default=REPO / "var" / "sizes", help="where random bases are kept")
    parser.add_argument(ONE, type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
