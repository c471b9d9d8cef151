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
from typing import Any, Literal

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
from tests.bench.claims import Claim, Comparison, write  # noqa: E402
from tests.bench.gate_lab import ADAPTERS, Kept, Lab, Losses, arm, compared, parser, pooled  # noqa: E402

Verdict = Literal["shown", "not shown", "refuted here"]
OWN = ("with own", "without own")
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
    parts, kept = lab.parts(rows.names), Kept(options.home / "ramole.json")
    asked = {name: rows.of(name, "test", options.rows) for name in tested}
    arms = Arms(lab, parts, kept, asked, options.home)
    for seed in options.seeds:
        more = f" {seed}" if seed > options.seeds[0] else ""
        arms.measure(f"untrained{more}", RamoleGate(parts.by_target, G, seed))
        schedule = Schedule(options.steps, options.batch, options.rate, max_length=MOST_TOKENS, seed=seed)
        gate = RamoleGate(parts.by_target, G, seed)
        arms.train(gate, schedule, lambda: [x for name in learned for x in rows.of(name, "train", 100)])
        arms.measure(f"trained{more}", gate)
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

    def measure(self, name: str, gate: Gated, count: int = NEAREST) -> None:
        """The arm with each row's own adapter among those that may answer, and without it."""
        for with_own in (True, False):
            rows = {name: [x.among(count, with_own) for x in asked] for name, asked in self.asked.items()}
            self._one(f"{name}, {OWN[not with_own]}", gate, rows)

    def _one(self, name: str, adapter: Any, rows: dict[str, list[Encoded]]) -> None:
        self.losses[name] = [
            self.kept.rows(f"{name}: {task}", encoded, lambda some: self.lab.losses(adapter, some))
            for task, encoded in rows.items()
        ]
        print(f"{name}: {pooled(self.losses[name]):.4f}", flush=True)

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
    told = [each for own in OWN for each in _compared(arms, own, options.seeds)]
    told.append(_between(arms, f"first retrieved, {OWN[0]}", "own adapter"))
    few = [place for place, name in enumerate(tested) if name not in CHANCE]
    for own in OWN:
        sides = [[arms.losses[f"{gate}, {own}"][place] for place in few] for gate in ("trained", "even")]
        named = (f"trained, {own}, {len(few)} tasks not near chance", f"even, {own}, these tasks")
        told.append(compared(*named, *sides))
    claim = Claim(
        title="RAMoLE: retrieved adapters under a trained router",
        paper="RAMoLE (arXiv 2406.16989)",
        claim="A router that was trained on some tasks weighs retrieved adapters better than even shares do on others.",
        bar="Against even shares the loss is lower, with the whole 95 % interval, with and without the row's own "
        "adapter; and against the first retrieved adapter it is not higher by the whole interval.",
        verdict=verdict_of(told),
        arms={name: arm(losses) for name, losses in arms.losses.items()},
        comparisons=told,
        command=f"python -m tests.bench.ramole --data DATASETS --rows {options.rows} --steps {options.steps}",
        seeds=options.seeds,
        notes=[
            f"{options.rows} test rows, of {MOST_TOKENS} tokens at most, of each of {len(tested)} tasks; "
            f"{NEAREST} adapters are retrieved for each row by the n-grams of its inputs",
            f"The router learned from {', '.join(learned)}: {options.steps} steps of {options.batch} rows, "
            f"rate {options.rate:g}, g {G}, dropout of parts 0.5",
            f"Among the tasks tested are {', '.join(sorted(CHANCE & set(tested)))}, whose adapters are near chance",
        ],
    )
    for name, each in (("ramole", claim), ("arrow", of_arrow(arms, claim))):
        print(write(name, each), each.verdict)
        for one in each.comparisons:
            print(f"{one.a} - {one.b}: {one.difference:+.4f} ({one.low:+.4f} to {one.high:+.4f})")


def of_arrow(arms: Arms, router: Claim) -> Claim:
    """The same rows for Arrow, which chooses among all adapters for every token and linear and learns nothing."""
    told = [_between(arms, f"Arrow, {own}", f"{rival}, {own}") for own in OWN for rival in ("even", "first retrieved")]
    told += [_between(arms, f"Arrow, {OWN[0]}", "own adapter"), _between(arms, f"Arrow, {OWN[1]}", "base")]
    even = [each for each in told if each.b.startswith("even")]
    better, worse = all(each.high < 0 for each in even), any(each.low > 0 for each in even)
    return replace(
        router,
        title="Arrow: weights that follow from the adapters",
        paper="Arrow (arXiv 2405.11157)",
        claim="Chosen for every token by their own strongest directions, adapters answer better than retrieved ones do "
        "in even shares.",
        bar="Against even shares of the three retrieved the loss is lower, with the whole 95 % interval, with and "
        "without the row's own adapter.",
        verdict="shown" if better else "refuted here" if worse else "not shown",
        arms={name: each for name, each in router.arms.items() if "trained" not in name},
        comparisons=told,
        notes=[router.notes[0], f"Arrow takes {NEAREST} of all 32 adapters, or of the 31 others", router.notes[2]],
    )


def _compared(arms: Arms, own: str, seeds: Sequence[int]) -> list[Comparison]:
    told = []
    for gate in (f"trained {seed}" if seed > seeds[0] else "trained" for seed in seeds):
        if f"{gate}, {own}" in arms.losses:
            rivals = ("even", "untrained", "first retrieved", "Arrow")
            told += [_between(arms, f"{gate}, {own}", f"{rival}, {own}") for rival in rivals]
    told += [_between(arms, f"{a}, {own}", f"{b}, {own}") for a, b in (("Arrow", "even"), ("even", "first retrieved"))]
    return told


def _between(arms: Arms, a: str, b: str) -> Comparison:
    return compared(a, b, arms.losses[a], arms.losses[b])


def verdict_of(told: Sequence[Comparison]) -> Verdict:
    """By the bar; refuted where a trained router is worse than even shares by the whole interval."""
    gates = [each for each in told if each.a.startswith("trained") and "chance" not in each.a]
    even = [each for each in gates if each.b.startswith("even")]
    first = [each for each in gates if each.b.startswith("first")]
    if all(each.high < 0 for each in even) and all(each.low <= 0 for each in first):
        return "shown"
    return "refuted here" if any(each.low > 0 for each in even) else "not shown"


if __name__ == "__main__":
    main()
