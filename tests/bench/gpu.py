"""`make bench-gpu`: Mistral-7B's shape with random weights on the GPU at hand, and 25 adapters. Downloads nothing.

Users ask, read their whole answer and ask again, as in the paper's load test: about 130 tokens in and out. What is
measured is the engine itself, in one thread. Prints a table and writes JSON. `--tiny` runs all of it on a model of
toy size, without a GPU in Triton's interpreter, to show that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inference.model.architecture import TARGETS, Architecture
from tests.inference.decoders.gpu.interpreter import hastened

if TYPE_CHECKING:
    from inference.engine.engine import Engine
    from inference.model.weights import DecoderWeights
    from tests.bench.gpu_engine import Adapters

REPO = Path(__file__).parents[2]


@dataclass(frozen=True)
class Size:
    """How much is measured: users at once and requests of each, tokens in and out, adapters, and many registered."""

    users: tuple[int, ...] = (1, 8, 25, 50, 100)
    tokens: int = 130
    adapters: int = 25
    registered: int = 1000
    requests: int = 3
    runs: int = 3


TINY = Size(users=(1,), tokens=2, adapters=2, registered=3, requests=1, runs=1)


def main() -> None:
    options = _options()
    if not torch.cuda.is_available():
        if not options.tiny:
            sys.exit("bench-gpu needs a CUDA device, and torch finds none; --tiny shows without one that it runs.")
        os.environ["TRITON_INTERPRET"] = "1"
    report: dict[str, Any] = {"device": _device_name(), "torch": torch.__version__, "tiny": options.tiny}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for kind in options.bases:
        print(f"\n{kind} on {report['device']}{', toy size: the figures mean nothing' if options.tiny else ''}")
        with nullcontext() if torch.cuda.is_available() else hastened():
            report[kind] = Bench(kind, TINY if options.tiny else Size(runs=options.runs)).run()
        options.json.write_text(json.dumps(report, indent=1))
    print(f"written to {options.json}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--bases", nargs="+", choices=("bf16", "nf4", "int4"), help="default: bf16, and nf4 where it can be had"
    )
    parser.add_argument("--runs", type=int, default=Size.runs, help="medians of so many")
    parser.add_argument("--json", type=Path, default=REPO / "var" / "bench-gpu.json")
    options = parser.parse_args()
    has_nf4 = torch.cuda.is_available() and find_spec("bitsandbytes") is not None
    options.bases = options.bases or (["bf16", "nf4"] if has_nf4 else ["bf16"])
    if "nf4" in options.bases and not has_nf4:
        parser.error("nf4 needs a CUDA device and the package bitsandbytes; run `pip install bitsandbytes`")
    return options


class Bench:
    """All figures of one kind of base."""

    def __init__(self, kind: str, size: Size) -> None:
        # Triton decides whether to interpret when it is imported, which these do.
        from inference.model.linear import Int4Linear, Nf4Linear, PlainLinear
        from tests.bench import gpu_engine, mistral

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.size = size
        self.architecture = mistral.TINY if size is TINY else mistral.MISTRAL_7B
        make_linear = {"nf4": Nf4Linear, "int4": Int4Linear, "bf16": PlainLinear}[kind]
        self.weights: DecoderWeights = mistral.make_weights(self.architecture, self.device, dtype, make_linear)
        self.adapters: Adapters = gpu_engine.Adapters(self.architecture, dtype)
        self.load = self.adapters.loader()
        self.bytes_a_token = _bytes_read(self.architecture, dtype, kind)

    def run(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            figures = self._users(Path(directory))
            figures["registered"] = self._registered(Path(directory))
            figures["cold_start_ms"] = self._cold_start()
            figures["deterministic"] = self._deterministic(Path(directory), figures["users"])
        figures["bandwidth_share"] = self._bandwidth_share(figures["users"])
        print(f"share of the memory-bandwidth limit, 1 user, base only: {figures['bandwidth_share']:.0%}")
        return figures

    def _users(self, directory: Path) -> dict[str, Any]:
        """Each number of users, to adapters as the paper's, to those and large ones by turns, and to the base only."""
        engine = self._engine(directory)
        kinds = {
            "small": self.adapters.digests(self.size.adapters, only_small=True),
            "mixed": self.adapters.digests(self.size.adapters),
            "base": [""],
        }
        print("rank 8 on q and v (small), those and rank 16 on every linear by turns (mixed), base:")
        print("tokens a second, ms to the first and to the next token")
        figures: dict[str, Any] = {}
        for users in self.size.users:
            each = {kind: self._measure(engine, users, digests) for kind, digests in kinds.items()}
            figures[str(users)] = each | {f"{kind}_tax": _tax(each[kind], each["base"]) for kind in ("small", "mixed")}
            print(f"{users:>4} users", *(f"{kind} {_line(each[kind])}" for kind in kinds), end="", sep=" | ")
            print(" | tax", *(f"{figures[str(users)][f'{kind}_tax']:.1%}" for kind in ("small", "mixed")), flush=True)
        check = engine.machine.self_check
        self._close(engine)
        return {"users": figures, "self_check": check}

    def _registered(self, directory: Path) -> dict[str, float]:
        """Tokens a second with few adapters and with many, asked for as Zipf has it, by half of the most users."""
        users, figures = max(1, self.size.users[-1] // 2), {}
        for count in (self.size.adapters, self.size.registered):
            engine = self._engine(directory)
            rng = random.Random(count)
            shares = [1 / (rank + 1) for rank in range(count)]
            digests = rng.choices(self.adapters.digests(count, only_small=True), shares, k=4 * users)
            figures[str(count)] = self._measure(engine, users, digests)["tokens_per_second"]
            print(f"{count} adapters registered, {users} users: {figures[str(count)]:.1f} tok/s", flush=True)
            self._close(engine)
        return figures

    def _deterministic(self, directory: Path, users: dict[str, Any]) -> dict[str, float]:
        """What `DETERMINISTIC=1` costs, as a share of tokens a second, by number of users."""
        engine = self._engine(directory, deterministic=True)
        costs = {}
        for count in self.size.users[:: max(1, len(self.size.users) // 2)]:
            fixed = self._measure(engine, count, self.adapters.digests(self.size.adapters))
            costs[str(count)] = _tax(fixed, users[str(count)]["mixed"])
            print(f"DETERMINISTIC=1, {count} users: {costs[str(count)]:.1%} fewer tok/s", flush=True)
        print(f"with it the self-check says: {engine.machine.self_check}")
        self._close(engine)
        return costs

    def _cold_start(self) -> float:
        """Milliseconds from host memory to a slot, for an adapter of rank 16 on every linear."""
        from inference.decoders.gpu.bank import SlotBank

        bank = SlotBank(1, 64, torch.device(self.device))
        prepared = bank.prepare(self.load("large-0").weights)
        times = [self._timed(lambda: bank.put(0, prepared)) for _ in range(5)]
        print(f"an adapter of rank 16 on every linear, {prepared.memory.nbytes / 1e6:.0f} MB, is in its slot ", end="")
        print(f"after {statistics.median(times) * 1000:.1f} ms")
        return statistics.median(times) * 1000

    def _bandwidth_share(self, users: dict[str, Any]) -> float:
        """Seconds that reading the weights would take, as measured by copying, over those that a token takes."""
        memory = torch.empty(2**30 if self.device == "cuda" else 2**24, dtype=torch.uint8, device=self.device)
        copy = torch.empty_like(memory)
        seconds = min(self._timed(lambda: copy.copy_(memory)) for _ in range(5))
        bandwidth = 2 * memory.nbytes / seconds
        print(f"a copy reads and writes {bandwidth / 1e12:.2f} TB a second")
        return self.bytes_a_token / bandwidth / (users[str(self.size.users[0])]["base"]["next_ms"] / 1000)

    def _engine(self, directory: Path, deterministic: bool = False) -> Engine:
        from inference.config import EngineConfig
        from tests.bench.gpu_engine import make_engine

        rows = max(self.size.users)
        config = EngineConfig(
            directory,
            "",
            max_rows=rows,
            adapter_slots=rows,
            block_size=32,
            kv_blocks=(2 * rows + 2) * -(-2 * self.size.tokens // 32) + 8,
            prefill_tokens=512,
            host_cache_mb=4096,
            deterministic=deterministic,
            # Random weights repeat themselves, so what they say next would be foretold too well.
            speculation=False,
        )
        engine = make_engine(config, self.architecture, self.weights, self.load)
        self._run(engine, rows, self.adapters.digests(self.size.adapters), rows, seed=-1)
        return engine

    def _measure(self, engine: Engine, users: int, digests: list[str]) -> dict[str, float]:
        """Medians over the runs."""
        count = self.size.requests * users
        outcomes = [self._run(engine, users, digests, count, seed) for seed in range(self.size.runs)]
        return {name: statistics.median(outcome[name] for outcome in outcomes) for name in outcomes[0]}

    def _run(self, engine: Engine, users: int, digests: list[str], count: int, seed: int) -> dict[str, float]:
        """`count` requests of `users`, to the adapters in turn."""
        from tests.bench.direct import run_on

        rng = random.Random(seed)
        prompts = ["".join(rng.choices("abcdefgh ", k=self.size.tokens)) for _ in range(count)]
        asks = [(digests[n % len(digests)], prompt, self.size.tokens) for n, prompt in enumerate(prompts)]
        return run_on(engine, users, asks)

    def _close(self, engine: Engine) -> None:
        engine.close()
        del engine
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _timed(self, work: Callable[[], object]) -> float:
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _tax(adapted: dict[str, float], base: dict[str, float]) -> float:
    return 1 - adapted["tokens_per_second"] / base["tokens_per_second"]


def _line(figures: dict[str, float]) -> str:
    return f"{figures['tokens_per_second']:.1f} {figures['first_ms']:.0f} {figures['next_ms']:.2f}"


def _bytes_read(architecture: Architecture, dtype: torch.dtype, kind: str) -> float:
    """Bytes that a token's pass reads: linears and head. In 4 bits a weight has half a byte and a share of a scale,
    and in our groups of a minimum."""
    shapes = [architecture.target_shape(target) for target in TARGETS]
    linears = architecture.num_layers * sum(width_in * width_out for width_in, width_out in shapes)
    head = architecture.vocab_size * architecture.hidden_size * dtype.itemsize
    return head + linears * {"nf4": 0.5 + 4 / 64, "int4": 0.5 + 4 / 32}.get(kind, dtype.itemsize)


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()
