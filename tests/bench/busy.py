"""What the tokens a second become where other programs want the processor: those of a site and of the engine alone.

`python -m tests.bench.busy` measures an engine in a process of its own for each of `--ways`, all in turn; `make bench`
the site. The same requests come on a quiet machine and beside programs that take a core each.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Final

from tests.bench.load import serve
from tests.bench.offline import Process
from tests.bench.record import Run
from tests.bench.site import PLAIN, REPO, Site, environment
from tests.bench.workloads import WORKLOADS, Prompts

MODEL: Final = REPO / "var" / "models" / "SmolLM2-135M-Instruct"
BURNERS: Final = (0, 1, 2)
"""Programs beside, one core each; first none, the quiet machine of every ratio."""
WAYS: Final[dict[str, dict[str, str]]] = {
    "native": {},
    "torch": {"DECODER": "torch"},
    "torch, OpenMP's own": {"DECODER": "torch", "GOMP_SPINCOUNT": "300000"},
    "torch, spin 10,000": {"DECODER": "torch", "GOMP_SPINCOUNT": "10000"},
    "torch, spin 1,000": {"DECODER": "torch", "GOMP_SPINCOUNT": "1000"},
    "torch, spin 300": {"DECODER": "torch", "GOMP_SPINCOUNT": "300"},
    "torch, spin 0": {"DECODER": "torch", "GOMP_SPINCOUNT": "0"},
    "torch, one thread": {"DECODER": "torch", "THREADS": "1"},
}


@contextmanager
def burning(count: int) -> Iterator[None]:
    """`count` processes that take all processor time that they can get."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def beside_burners(site: Site, prompts: Prompts, seed: str) -> dict[str, float]:
    """W1 and W3 quiet and beside programs that take a core each: tokens a second, and the longest that a request took
    over its own quiet time."""
    told = dict[str, float]()
    for name in ("w1", "w3"):
        workload, quiet = WORKLOADS[name], list[float]()
        asks = prompts.asks(workload.models, workload.requests, f"{seed}-{name}")
        for burners in BURNERS:
            with burning(burners):
                samples, seconds = asyncio.run(serve(site.target, asks, workload.users))
            times = [sample.last for sample in samples]
            quiet = quiet or times
            told[f"{name}_beside_{burners}"] = sum(sample.tokens for sample in samples) / seconds
            told[f"{name}_beside_{burners}_longest"] = max(map(float.__truediv__, times, quiet))
    return told


def main() -> None:
    options = _options()
    told: dict[tuple[str, int, int], list[Run]] = {}
    with tempfile.TemporaryDirectory(prefix="loraland-busy-") as directory, ExitStack() as stack:
        (Path(directory) / "models").symlink_to(MODEL.parent)
        engines = {way: stack.enter_context(_engine(way, directory, options.dtype)) for way in options.ways}
        for _ in range(options.runs):
            for users, burners, way in product(options.users, options.burners, options.ways):
                with burning(burners):
                    figures = engines[way].measure(_run(users, options.tokens))
                print(f"{way}, {users} rows, {burners} beside: {figures['tokens_per_second']:.1f}", file=sys.stderr)
                told.setdefault((way, users, burners), []).append(figures)
    _print(options, {key: _median(runs) for key, runs in told.items()})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.busy", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 25], help="rows at once")
    parser.add_argument("--burners", type=int, nargs="+", default=list(BURNERS), help="programs beside, one core each")
    parser.add_argument("--ways", nargs="+", default=["native", "torch"], choices=list(WAYS))
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    return parser.parse_args()


@contextmanager
def _engine(way: str, directory: str, dtype: str) -> Iterator[Process]:
    """An engine in a process with the environment of `way`, which waits while another one is measured."""
    settings = {"VAR_DIR": directory, "DEVICE": "cpu", "DTYPE": dtype, "BASE_MODEL": MODEL.name}
    variables = environment() | PLAIN | settings | WAYS[way]
    command, pipe = [sys.executable, "-m", "tests.bench.direct"], subprocess.PIPE
    with subprocess.Popen(command, cwd=REPO, env=variables, text=True, stdin=pipe, stdout=pipe) as process:
        try:
            yield Process(way, process)
        finally:
            assert process.stdin
            process.stdin.close()


def _run(users: int, tokens: int) -> Run:
    prompt = Prompts(MODEL).draw(random.Random(0))
    return {"users": users, "asks": [("", prompt, tokens)] * max(users, 4)}


def _median(runs: list[Run]) -> Run:
    return {name: statistics.median(run[name] for run in runs) for name in ("tokens_per_second", "longest_ms")}


def _print(options: argparse.Namespace, told: Mapping[tuple[str, int, int], Run]) -> None:
    """A row a way and number of rows: tokens a second, their share of the quiet ones, the longest request's times."""
    heads = [f"{burners} beside | share | longest" for burners in options.burners]
    print(f"| way | rows | {' | '.join(heads)} |\n|---|--:|{'--:|--:|--:|' * len(heads)}")
    for way, users in product(options.ways, options.users):
        figures = [told[way, users, burners] for burners in options.burners]
        print(f"| {way} | {users} | {' | '.join(_cells(figure, figures[0]) for figure in figures)} |", flush=True)


def _cells(figure: Run, quiet: Run) -> str:
    share = figure["tokens_per_second"] / quiet["tokens_per_second"]
    longest = figure["longest_ms"] / quiet["longest_ms"]
    return f"{figure['tokens_per_second']:.1f} | {share:.0%} | {longest:.2g} ×"


if __name__ == "__main__":
    main()
