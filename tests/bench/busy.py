"""`python -m tests.bench.busy`: the torch decoder by itself and beside programs that want the whole processor.

Torch's threads meet after every product. How they wait for each other is told to OpenMP by the environment, so each
way runs in a process of its own, all ways in turn and then once more; printed are tokens a second, the best of each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.site import REPO
from tests.bench.workloads import Prompts

MODEL: Final = REPO / "var" / "models" / "SmolLM2-135M-Instruct"
WAYS: Final = {
    "OpenMP's own": {},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "spin 30,000": {"GOMP_SPINCOUNT": "30000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 3,000": {"GOMP_SPINCOUNT": "3000"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 0": {"GOMP_SPINCOUNT": "0"},
    "one thread": {"THREADS": "1"},
}
_OWN: Final = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "THREADS")


def main() -> None:
    options = _options()
    for burners in options.burners:
        best: dict[str, list[float]] = {}
        with burning(burners):
            for _ in range(options.runs):
                for way in options.ways:
                    figures = measure(WAYS[way], options)
                    print(f"{burners} beside, {way}: {figures}", file=sys.stderr, flush=True)
                    best[way] = [max(pair) for pair in zip(best.get(way, figures), figures, strict=True)]
        _print(burners, options.users, best)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.busy", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 32], help="rows at once")
    parser.add_argument("--burners", type=int, nargs="+", default=[0, 4], help="programs beside, one core each")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--tokens", type=int, default=24, help="new tokens of each answer")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    return parser.parse_args()


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


def measure(way: dict[str, str], options: argparse.Namespace) -> list[float]:
    """Tokens a second for each number of users, in a process with the environment of `way`."""
    prompts, chance = Prompts(MODEL), random.Random(0)
    runs = [
        {"is_first": not place, "users": users, "asks": [("", prompts.draw(chance), options.tokens)] * users}
        for place, users in enumerate(options.users)
    ]
    kept = {name: value for name, value in os.environ.items() if name not in _OWN}
    with tempfile.TemporaryDirectory(prefix="loraland-busy-") as directory:
        (Path(directory) / "models").symlink_to(MODEL.parent)
        settings = {"VAR_DIR": directory, "DECODER": "torch", "DEVICE": "cpu", "DTYPE": options.dtype, **way}
        settings |= {"PREFIX_CACHE": "off", "SPECULATION": "off", "BASE_MODEL": MODEL.name}
        command = [sys.executable, "-m", "tests.bench.direct"]
        output = subprocess.run(
            command,
            input="".join(f"{json.dumps(run)}\n" for run in runs),
            env=kept | settings,
            cwd=REPO,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    return [round(json.loads(line)["tokens_per_second"], 1) for line in output.splitlines()[1:]]


def _print(burners: int, users: Sequence[int], best: dict[str, list[float]]) -> None:
    print(f"\n{burners} programs beside\n| way | " + " | ".join(f"{count} rows" for count in users) + " |")
    print("|---|" + "--:|" * len(users))
    for way, figures in best.items():
        print(f"| {way} | " + " | ".join(map(str, figures)) + " |", flush=True)


if __name__ == "__main__":
    main()
