"""What the experiments with gates share: the base in training's passes, intervals, and files of results.

Every loss is in nats a token of an answer. What was computed is kept row by row in a file of `--home`, so that a
program that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from inference.adapters.examination import WEIGHTS
from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from inference.tasks.metrics import Tally
from inference.tasks.recipe import Recipe
from inference.training.adapter import Adapter
from inference.training.decoder import TrainingDecoder
from inference.training.examples import Encoded
from inference.training.gate_learner import row_losses
from inference.training.gate_parts import Parts, read_parts
from tests.bench.claims import Arm, Comparison
from tests.bench.site import REPO

ADAPTERS = REPO / "adapters"
CPU = torch.device("cpu")
DRAWS = 4000


class Lab:
    """The base, its tokenizer, and adapters as parts."""

    def __init__(self, base: Path) -> None:
        self.base, self.architecture = base, read_architecture(base / "config.json")
        self.decoder = TrainingDecoder(self.architecture, load_weights(base, self.architecture, torch.bfloat16))
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self.pad = self.tokenizer.eos_token_id

    def parts(self, tasks: Sequence[str]) -> Parts:
        return read_parts([ADAPTERS / task for task in tasks], self.base, self.architecture, 512, CPU)

    def losses(self, adapter: Any, rows: Sequence[Encoded]) -> list[tuple[float, int]]:
        """Of each row the loss of its answer and the tokens that it has."""
        found = row_losses(self.decoder, adapter, rows, self.pad)
        return [(-tally.earned, int(tally.possible)) for tally in found]

    def adapter(self, recipe: Recipe, folder: Path) -> Adapter:
        """The adapter in `folder`, which has the shape of `recipe`, to be trained on."""
        adapter, saved = Adapter(self.architecture, recipe.lora, seed=0), load_file(folder / WEIGHTS)
        for name, tensor in adapter.named_tensors():
            tensor.copy_(saved[name])
        return adapter


class Kept:
    """What was computed, by key, in a file that is written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self.values:
            self._put(key, make)
        return self.values[key]

    def rows(self, key: str, rows: Sequence[Encoded], make: Callable[[Sequence[Encoded]], list[Any]]) -> list[Any]:
        """What `make` says of each of `rows`, of which the first may have been asked before."""
        kept = self.values.get(key, [])
        if len(kept) < len(rows):
            self._put(key, lambda: [*kept, *make(rows[len(kept) :])])
        return self.values[key][: len(rows)]

    def _put(self, key: str, make: Callable[[], Any]) -> None:
        began = time.monotonic()
        self.values[key] = make()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.values))
        partial.replace(self._path)
        print(f"{time.strftime('%H:%M:%S', time.gmtime())} {key}: {time.monotonic() - began:.0f} s", flush=True)


Losses = Sequence[Sequence[tuple[float, int]]]
"""Of each task, of each of its rows: the loss of the answer and how many tokens it has."""


def pooled(losses: Losses) -> float:
    """The mean over tasks of the loss a token."""
    return float(np.mean([table[:, 0].sum() / table[:, 1].sum() for table in map(np.asarray, losses)]))


def interval(losses: Losses, other: Losses | None = None, seed: int = 5) -> tuple[float, float]:
    """The 95 % interval of the pooled loss, or of its difference to that of `other` on the same rows, by rows that are
    drawn anew within each task."""
    random, found = np.random.default_rng(seed), np.zeros(DRAWS)
    for number, task in enumerate(losses):
        rows = random.integers(0, len(task), (DRAWS, len(task)))
        found += _drawn(task, rows) - (_drawn(other[number], rows) if other is not None else 0.0)
    low, high = np.percentile(found / len(losses), [2.5, 97.5])
    return float(low), float(high)


def _drawn(task: Sequence[tuple[float, int]], rows: np.ndarray) -> np.ndarray:
    """The loss a token of each draw of `rows` [draws, n]."""
    table = np.asarray(task, dtype=np.float64)
    return table[rows, 0].sum(axis=1) / table[rows, 1].sum(axis=1)


def arm(losses: Losses, scored: float | None = None) -> Arm:
    """The loss with its interval, and beside it what the answers scored, where they were asked for."""
    return Arm(scored, sum(map(len, losses)), _rounded(interval(losses)), round(pooled(losses), 4))


def compared(a: str, b: str, first: Losses, second: Losses) -> Comparison:
    """The loss of `a` less that of `b` on the same rows."""
    return Comparison(a, b, round(pooled(first) - pooled(second), 4), *_rounded(interval(first, second)), of="loss")


def _rounded(found: tuple[float, float]) -> tuple[float, float]:
    return round(found[0], 4), round(found[1], 4)


def score_of(tallies: Sequence[Tally]) -> float | None:
    possible = sum(tally.possible for tally in tallies)
    return round(sum(tally.earned for tally in tallies) / possible, 4) if possible else None


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder for each task")
    made.add_argument("--base", type=Path, default=REPO / "var" / "models" / "SmolLM2-135M-Instruct")
    made.add_argument("--home", type=Path, default=REPO / "var" / "gates", help="where what was computed is kept")
    made.add_argument("--threads", type=int, default=1)
    return made
