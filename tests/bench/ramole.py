"""Whether a router that was trained on 13 tasks weighs adapters better than even shares on 19 others:
`python -m tests.bench.ramole --data DATASETS`.

For each row the three adapters whose inputs are nearest to its own are retrieved among the 32 shipped ones, once with
the row's own adapter among them and once without it. All arms answer the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.model.torch_environment import prepare_torch
from inference.tasks.card import CARD
from inference.tasks.data import Row
from inference.tasks.embedding import bare, of_table
from inference.tasks.recipe import Recipe, Schedule, tasks
from inference.tasks.vectors import embed, vector_of
from tests.bench.routing import drawn, task_of

prepare_torch()

import tomllib  # noqa: E402

import torch  # noqa: E402

from inference.training.examples import Encoded, encode  # noqa: E402
from inference.training.gate_learner import GateLearner  # noqa: E402
from inference.training.gate_parts import Parts  # noqa: E402
from inference.training.gated import ArrowGate, EvenGate, Gated, RamoleGate  # noqa: E402
from inference.training.loop import Step, train  # noqa: E402
from tests.bench.gate_lab import ADAPTERS, Finding, Kept, Lab, Losses, command, parser, pooled  # noqa: E402

TRAINED_ON = 13
NEAREST = 3
G = 8
MOST_TOKENS = 128
CHANCE = frozenset({"winogrande", "hellaswag", "glue_wnli", "mmlu", "arc_combined", "gsm8k"})
"""Tasks whose adapters are near chance (named before anything ran): pooled once with them and once without."""


@dataclass(frozen=True)
class Retrieved:
    """A row as tokens, and the adapters by how near they are to it; `own` is the number of its own."""

    example: Encoded
    order: tuple[int, ...]
    own: int

    def among(self, count: int, with_own: bool) -> Encoded:
        order = [part for part in self.order if with_own or part != self.own]
        return replace(self.example, parts=tuple(sorted(order[:count])))


class Rows:
    """Rows of all tasks with what is retrieved for each."""

    def __init__(self, lab: Lab, data: Path) -> None:
        self._lab, self._data, self.names = lab, data, tasks()
        cards = [tomllib.loads((ADAPTERS / name / CARD).read_text(encoding="utf-8")) for name in self.names]
        self._vectors = np.stack([vector_of(found) for card in cards if (found := of_table(card["embedding"]))])
        assert len(self._vectors) == len(self.names)

    def of(self, name: str, part: str, most: int) -> list[Retrieved]:
        """Up to `most` rows of `MOST_TOKENS` tokens at most, drawn by a fixed seed."""
        task = task_of(name, self._data)
        rows = drawn(getattr(task, part), 4 * most)
        found = [self._retrieved(task.recipe, row) for row in rows]
        return [each for each in found if len(each.example.token_ids) <= MOST_TOKENS][:most]

    def _retrieved(self, recipe: Recipe, row: Row) -> Retrieved:
        near = self._vectors @ embed(bare(row.inputs, recipe.field_names))
        order = tuple(int(place) for place in np.argsort(-near, kind="stable"))
        return Retrieved(encode(row, recipe, self._lab.tokenizer), order, self.names.index(recipe.task))


class Alone:
    """No adapter at all."""

    scaling = 1.0

    def __init__(self, layers: int) -> None:
        self._layers = layers

    def pairs(self) -> tuple[dict[str, Any], ...]:
        return tuple({} for _ in range(self._layers))


def main() -> None:
    made = parser("tests.bench.ramole", __doc__)
    made.add_argument("--rows", type=int, default=24, help="test rows of each task")
    made.add_argument("--steps", type=int, default=150)
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--rate", type=float, default=3e-3)
    made.add_argument("--seeds", type=int, nargs="+", default=[1])
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    lab = Lab(options.base)
    rows = Rows(lab, options.data)
    learned, tested = split(rows.names)
    print("learns from", *learned)
    parts, kept = lab.parts(rows.names), Kept(options.home / f"ramole-{options.rows}.json")
    asked = {name: rows.of(name, "test", options.rows) for name in tested}
    arms = Arms(lab, parts, kept, asked, options.home)
    for seed in options.seeds:
        arms.measure(f"untrained {seed}" if seed > 1 else "untrained", RamoleGate(parts.by_target, G, seed))
        schedule = Schedule(options.steps, options.batch, options.rate, max_length=MOST_TOKENS, seed=seed)
        gate = RamoleGate(parts.by_target, G, seed)
        arms.train(gate, schedule, lambda: [x for name in learned for x in rows.of(name, "train", 100)])
        arms.measure(f"trained {seed}" if seed > 1 else "trained", gate)
        if seed == options.seeds[0]:
            arms.controls()
        report(arms, learned, tested, options)


def split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    learned = sorted(random.Random(13).sample(list(names), TRAINED_ON))
    return learned, [name for name in names if name not in learned]


class Arms:
    """The losses of every arm, by the task and the rows of it."""

    def __init__(self, lab: Lab, parts: Parts, kept: Kept, asked: dict[str, list[Retrieved]], home: Path) -> None:
        self.lab, self.parts, self.kept, self.asked, self.home = lab, parts, kept, asked, home
        self.losses: dict[str, Losses] = {}

    def controls(self) -> None:
        even, k = EvenGate(self.parts.by_target), NEAREST
        self.measure("even", even, k)
        self.measure("first retrieved", even, 1)
        self.measure("Arrow", ArrowGate(self.parts.by_target, self.parts.arrow, k), len(self.parts.digests))
        own = {name: [replace(x.example, parts=(x.own,)) for x in asked] for name, asked in self.asked.items()}
        self._one("own adapter", even, own)
        bare = {name: [x.example for x in asked] for name, asked in self.asked.items()}
        self._one("base", Alone(self.lab.architecture.num_layers), bare)

    def measure(self, arm: str, gate: Gated, count: int = NEAREST) -> None:
        """The arm with each row's own adapter among those that may answer, and without it."""
        for with_own in (True, False):
            rows = {name: [x.among(count, with_own) for x in asked] for name, asked in self.asked.items()}
            self._one(f"{arm}, {'with' if with_own else 'without'} own", gate, rows)

    def _one(self, arm: str, adapter: Any, rows: dict[str, list[Encoded]]) -> None:
        self.losses[arm] = [
            self.kept.get(f"{arm}: {name}", lambda: self.lab.losses(adapter, encoded))  # noqa: B023
            for name, encoded in rows.items()
        ]
        print(f"{arm}: {pooled(self.losses[arm]):.4f}", flush=True)

    def train(self, gate: RamoleGate, schedule: Schedule, rows: Any) -> None:
        """Train `gate`, or let it be what was trained before."""
        place = self.home / f"ramole-{schedule.seed}-{schedule.steps}.pt"
        if place.is_file():
            state = torch.load(place, weights_only=True)
            with torch.no_grad():
                for parameter, value in zip(gate.parameters, state["values"], strict=True):
                    parameter.copy_(value)
            self.first_losses = state["losses"]
            return
        examples = [each.among(NEAREST, with_own=True) for each in rows()]
        learner = GateLearner("router", gate, examples, schedule, self.lab.pad, dropout=0.5)
        self.first_losses = []

        def told(steps: Sequence[Step]) -> None:
            self.first_losses.append(steps[0].loss)
            if steps[0].number % 10 == 0:
                print(f"step {steps[0].number}: {np.mean(self.first_losses[-10:]):.3f}", flush=True)

        train(self.lab.decoder, [learner], told)
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"values": [each.detach() for each in gate.parameters], "losses": self.first_losses}, place)


def report(arms: Arms, learned: Sequence[str], tested: Sequence[str], options: Any) -> None:
    found = Finding(
        "ramole",
        claim="A router that was trained on some tasks weighs retrieved adapters better than even shares do on others.",
        bar="Against even shares the loss is lower, with the whole 95 % interval, with and without the row's own "
        "adapter; and against the first retrieved adapter it is not higher by the whole interval.",
    )
    for arm, losses in arms.losses.items():
        found.arm(arm, losses)
    trained = [f"trained {seed}" if seed > 1 else "trained" for seed in options.seeds]
    shown, worse = [], False
    for own in ("with own", "without own"):
        for gate in trained:
            if f"{gate}, {own}" not in arms.losses:
                continue
            for other in ("even", "untrained", "first retrieved", "Arrow"):
                low, high = _compare(found, arms, f"{gate}, {own}", f"{other}, {own}")
                if other == "even":
                    shown.append(high < 0)
                    worse |= low > 0
                if other == "first retrieved":
                    shown.append(low <= 0)
        _compare(found, arms, f"Arrow, {own}", f"even, {own}")
        _compare(found, arms, f"even, {own}", f"first retrieved, {own}")
    _compare(found, arms, "first retrieved, with own", "own adapter")
    found.verdict = "shown" if all(shown) else "refuted here" if worse else "not shown"
    few = [place for place, name in enumerate(tested) if name not in CHANCE]
    for own in ("with own", "without own"):
        pair = [[arms.losses[f"{gate}, {own}"][place] for place in few] for gate in ("trained", "even")]
        found.compare(f"trained, {own}", f"even, {own}", *pair, where="without tasks near chance")
    found.about = {
        "rows": f"{options.rows} test rows of {len(tested)} tasks, of {MOST_TOKENS} tokens at most",
        "trained_on": list(learned),
        "tested_on": list(tested),
        "training": f"{options.steps} steps of {options.batch} rows, rate {options.rate:g}, g {G}, dropout 0.5",
        "seeds": options.seeds,
        "command": command("tests.bench.ramole"),
    }
    found.write()
    for each in found.comparisons:
        print(each)
    print(found.verdict)


def _compare(found: Finding, arms: Arms, a: str, b: str) -> tuple[float, float]:
    return found.compare(a, b, arms.losses[a], arms.losses[b])


if __name__ == "__main__":
    main()
