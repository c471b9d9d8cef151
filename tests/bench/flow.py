"""Whether a gate that weighs two adapters for every token learns more than its rivals from 200 rows that need both:
`python -m tests.bench.flow --data DATASETS`.

A target's row is made of a row of each of two tasks, under one prompt: both are answered, one behind the other. All
arms learn from the same 200 rows and begin with the same adapter, that of the two whose loss on these rows is the
lower. Of the rates that were tried each arm has the one with the lowest loss on other rows.
"""

from __future__ import annotations

import dataclasses
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from inference.model.torch_environment import prepare_torch
from inference.tasks import baseline
from inference.tasks.data import Row, read_split
from inference.tasks.metrics import Tally
from inference.tasks.recipe import Recipe, Schedule, load_recipe

prepare_torch()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from inference.adapters.gate_file import gate_digest, read_gate, write_gate  # noqa: E402
from inference.adapters.identity import blended_digest  # noqa: E402
from inference.adapters.stored_gate import StoredGate  # noqa: E402
from inference.config import read_config  # noqa: E402
from inference.engine.engine import Engine  # noqa: E402
from inference.tasks.template import fill  # noqa: E402
from inference.training.adapter import Adapter, save_adapter  # noqa: E402
from inference.training.examples import Encoded, encode  # noqa: E402
from inference.training.gate_learner import GateLearner  # noqa: E402
from inference.training.gate_parts import Parts  # noqa: E402
from inference.training.gated import EvenGate, FlowGate  # noqa: E402
from inference.training.loop import Learner, Step, train  # noqa: E402
from inference.training.scoring import answers, put_into_store  # noqa: E402
from inference.wire.protocol import AdapterRef, Component, GateRef, Sampling  # noqa: E402
from tests.bench.claims import Claim, Comparison, write  # noqa: E402
from tests.bench.gate_lab import ADAPTERS, Kept, Lab, Losses, arm, compared, parser, score_of  # noqa: E402

Verdict = Literal["shown", "not shown", "refuted here"]
TRAIN, CHOICE, TEST = 200, 40, 100


@dataclass(frozen=True)
class Target:
    """Two tasks as one: the prompt of both, and what becomes of two answers."""

    tasks: tuple[str, str]
    template: str
    joined: Callable[[str, str], str]
    metric: str
    max_answer: int
    most_tokens: int = 112
    """Of a row; longer ones are left out."""

    @property
    def name(self) -> str:
        return "+".join(self.tasks)

    @property
    def recipe(self) -> Recipe:
        first, second = map(load_recipe, self.tasks)
        fields, lora = (*first.fields, *second.fields), first.lora
        told = {"task": self.name, "template": self.template, "fields": fields, "lora": lora}
        return dataclasses.replace(second, **told, metric=self.metric, max_answer=self.max_answer)


def _merged(first: str, second: str) -> str:
    return json.dumps(json.loads(first) | json.loads(second), ensure_ascii=False)


TARGETS = (
    Target(("tweet_emotion", "glue_sst2"), "Tweet: {tweet}\nReview: {text}\nMoods:", "{}, {}".format, "accuracy", 16),
    Target(("conllpp", "snips_slots"), "Sentence: {text}\nCommand: {command}\nJSON:", _merged, "f1_json", 100),
    Target(
        ("e2e_nlg", "viggo"), "Facts: {facts}\nMeaning: {representation}\nText:", "{} {}".format, "rouge_l", 100, 144
    ),
)
ARMS = ("trained on", "static", "flow")
RATES = {"trained on": (1e-3, 3e-4), "static": (1e-2, 3e-2), "flow": (1e-3, 1e-2)}
START = "start"


class StaticGate(FlowGate):
    """A number for each layer and part, whatever the row: of a flow gate the bias alone learns."""

    @property
    def parameters(self) -> list[Tensor]:
        return [self.bias]


@dataclass(frozen=True)
class Rows:
    train: tuple[Row, ...]
    choice: tuple[Row, ...]
    test: tuple[Row, ...]


def rows_of(target: Target, data: Path, lab: Lab) -> Rows:
    """Pairs of rows that are not too long, drawn by a fixed seed; the test rows are of both test parts."""
    splits = [read_split(data, task, load_recipe(task).field_names) for task in target.tasks]
    found = []
    for part, most in (("train", TRAIN), ("validation", CHOICE), ("test", TEST)):
        pairs = zip(*(_shuffled(getattr(split, part)) for split in splits), strict=False)
        joined = (Row(a.inputs | b.inputs, target.joined(a.target, b.target)) for a, b in pairs)
        fitting = [row for row in joined if len(lab_encode(lab, row, target).token_ids) <= target.most_tokens]
        found.append(tuple(fitting[:most]))
    return Rows(*found)


def _shuffled(rows: Sequence[Row]) -> list[Row]:
    mixed = list(rows)
    random.Random(15).shuffle(mixed)
    return mixed


def lab_encode(lab: Lab, row: Row, target: Target) -> Encoded:
    return encode(row, target.recipe, lab.tokenizer)


class Trial:
    """One target: its rows, its parts, and the adapter that all arms begin with."""

    def __init__(self, lab: Lab, target: Target, data: Path, home: Path, options: Any) -> None:
        self.lab, self.target, self.options = lab, target, options
        self.home, self.kept = home / target.name, Kept(home / target.name / "losses.json")
        self.rows = rows_of(target, data, lab)
        self.encoded = {
            part: [lab_encode(lab, row, target) for row in getattr(self.rows, part)]
            for part in ("train", "choice", "test")
        }
        self.parts: Parts = lab.parts(target.tasks)
        self.start = self._start()

    def _start(self) -> int:
        means = []
        for task in self.target.tasks:
            alone = EvenGate(self.lab.parts([task]).by_target)
            found = self.kept.get(f"train rows, {task}", lambda: self.lab.losses(alone, self.encoded["train"][:60]))  # noqa: B023
            means.append(sum(loss for loss, _ in found) / sum(count for _, count in found))
        print(self.target.name, dict(zip(self.target.tasks, means, strict=True)), flush=True)
        return means.index(min(means))

    def untouched(self) -> list[tuple[float, int]]:
        alone = EvenGate(self.lab.parts([self.target.tasks[self.start]]).by_target)
        return self.kept.get(START, lambda: self.lab.losses(alone, self.encoded["test"]))

    def run(self, arm: str, rate: float, seed: int) -> None:
        """Train the arm, keep what it learned, and its losses on the rows for choice and for the test."""
        key = f"{arm}, {rate:g}, {seed}"
        if f"{key}, test" in self.kept.values:
            return
        adapter = self._fresh(arm)
        schedule = Schedule(self.options.steps, 4, rate, 0.2, self.target.most_tokens, seed)
        kind = Learner if arm == "trained on" else GateLearner
        learner = kind(self.target.name, adapter, self.encoded["train"], schedule, self.lab.pad)

        def told(steps: Sequence[Step]) -> None:
            if steps[0].number % 25 == 0:
                print(f"{self.target.name} {key}, step {steps[0].number}: {steps[0].loss:.3f}", flush=True)

        train(self.lab.decoder, [learner], told)
        self._save(arm, adapter, self.home / key)
        for part in ("choice", "test"):
            self.kept.get(f"{key}, {part}", lambda: self.lab.losses(adapter, self.encoded[part]))  # noqa: B023

    def _fresh(self, arm: str) -> Any:
        if arm == "trained on":
            task = self.target.tasks[self.start]
            return self.lab.adapter(load_recipe(task), ADAPTERS / task)
        kind = StaticGate if arm == "static" else FlowGate
        return kind(self.parts.by_target, self.lab.architecture.hidden_size, self.start)

    def _save(self, arm: str, adapter: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(adapter, Adapter):
            adapter.round()
            save_adapter(adapter, "SmolLM2-135M-Instruct", folder)
        else:
            tensors = dict(adapter.named_tensors())
            write_gate(folder, StoredGate("flow", tensors, "SmolLM2-135M-Instruct", self.parts.digests))

    def best(self, arm: str) -> tuple[float, tuple[int, ...]] | None:
        """The rate of the lowest loss on the rows for choice with the first seed, and the seeds that it has."""
        done = [key.split(", ") for key in self.kept.values if key.startswith(f"{arm}, ") and key.endswith("test")]
        if not done:
            return None
        first = min(int(seed) for _, _, seed, _ in done)
        rates = [float(rate) for _, rate, seed, _ in done if int(seed) == first]
        rate = min(rates, key=lambda rate: _mean(self.kept.values[f"{arm}, {rate:g}, {first}, choice"]))
        return rate, tuple(sorted(int(seed) for _, own, seed, _ in done if float(own) == rate))

    def losses(self, arm: str) -> list[tuple[float, int]]:
        """Of each test row, the mean over the seeds of the best rate."""
        found = self.best(arm)
        assert found is not None
        rate, seeds = found
        each = [self.kept.values[f"{arm}, {rate:g}, {seed}, test"] for seed in seeds]
        return [(sum(row[0] for row in rows) / len(rows), rows[0][1]) for rows in zip(*each, strict=True)]


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    return sum(loss for loss, _ in losses) / sum(count for _, count in losses)


def main() -> None:
    made = parser("tests.bench.flow", __doc__)
    made.add_argument("--steps", type=int, default=100, help="of 4 rows; 50 are an epoch")
    made.add_argument("--rates", type=int, default=1, help="how many of the rates of each arm are tried")
    made.add_argument("--seeds", type=int, nargs="+", default=[1], help="after the first at the best rate alone")
    made.add_argument("--targets", type=int, default=len(TARGETS), help="the first so many of them")
    made.add_argument("--scores", action="store_true", help="let the engine answer the test rows, too")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    lab, home = Lab(options.base), options.home / f"flow-{options.steps}"
    trials = [Trial(lab, target, options.data, home, options) for target in TARGETS[: options.targets]]
    for trial in trials:
        trial.untouched()
    for number in range(options.rates):
        for trial in trials:
            for name in ARMS:
                trial.run(name, RATES[name][number], options.seeds[0])
            report(trials, options)
    for seed in options.seeds[1:]:
        for trial in trials:
            for name in ARMS:
                if found := trial.best(name):
                    trial.run(name, found[0], seed)
            report(trials, options)
    if options.scores:
        for trial in trials:
            score(trial, options)
    report(trials, options)


def report(trials: Sequence[Trial], options: Any) -> None:
    losses = {name: found for trial in trials for name, found in _arms(trial).items()}
    told = [each for trial in trials for each in _compared(trial, losses)]
    claim = Claim(
        title="LoRA-Flow: two adapters under a gate for every token",
        paper="LoRA-Flow (arXiv 2402.11455)",
        claim="On rows that need two adapters a gate for every token learns more of 200 rows than the better adapter "
        "trained on, and than a number for each layer and adapter.",
        bar="The loss is lower than that of the adapter trained on and that of the static numbers, with the whole "
        "paired 95 % interval, on 2 of 3 targets.",
        verdict=verdict_of([trial.target.name for trial in trials], told),
        arms={name: arm(found, _scores(trials)[name]) for name, found in losses.items()},
        comparisons=told,
        command=f"python -m tests.bench.flow --data DATASETS --steps {options.steps} --rates {options.rates}",
        seeds=options.seeds,
        notes=[
            f"Up to {TRAIN} rows to learn from, {CHOICE} by which each arm's rate is chosen, {TEST} to test; "
            f"{options.steps} steps of 4 rows, cosine after 20 % of warm-up",
            *(_told_of(trial) for trial in trials),
        ],
    )
    write("flow", claim)
    for each in told:
        print(f"{each.a} - {each.b}: {each.difference:+.4f} ({each.low:+.4f} to {each.high:+.4f})", flush=True)
    print(claim.verdict, flush=True)


def _scores(trials: Sequence[Trial]) -> dict[str, float | None]:
    arms = (START, *ARMS)
    return {f"{trial.target.name}: {each}": score_of(_tallies(trial, each)) for trial in trials for each in arms}


def _arms(trial: Trial) -> dict[str, Losses]:
    found: dict[str, Losses] = {f"{trial.target.name}: {START}": [trial.untouched()]}
    return found | {f"{trial.target.name}: {each}": [trial.losses(each)] for each in ARMS if trial.best(each)}


def _compared(trial: Trial, losses: dict[str, Losses]) -> list[Comparison]:
    pairs = [("flow", "trained on"), ("flow", "static"), *((each, START) for each in ARMS)]
    named = [(f"{trial.target.name}: {a}", f"{trial.target.name}: {b}") for a, b in pairs]
    return [compared(a, b, losses[a], losses[b]) for a, b in named if a in losses and b in losses]


def verdict_of(targets: Sequence[str], told: Sequence[Comparison]) -> Verdict:
    """By the bar; refuted where on 2 targets a rival is better by the whole interval."""
    wins = losses = 0
    for name in targets:
        both = [each for each in told if each.a == f"{name}: flow" and not each.b.endswith(START)]
        wins += len(both) == 2 and all(each.high < 0 for each in both)
        losses += any(each.low > 0 for each in both)
    return "shown" if wins >= 2 else "refuted here" if losses >= 2 else "not shown"


def _told_of(trial: Trial) -> str:
    """What a target's arms begin with and which rates and seeds they have."""
    best = {each: found for each in ARMS if (found := trial.best(each))}
    rates = ", ".join(f"{each} {rate:g} (seeds {' '.join(map(str, seeds))})" for each, (rate, seeds) in best.items())
    start, metric = trial.target.tasks[trial.start], trial.target.metric
    counts = ", ".join(f"{len(rows)} {part}" for part, rows in trial.encoded.items())
    told = f"{trial.target.name}, rows of at most {trial.target.most_tokens} tokens ({counts}), begins with {start}"
    return f"{told}; rates: {rates or 'not trained yet'}; its scores are {metric}"


def _tallies(trial: Trial, arm: str) -> list[Tally]:
    return [Tally(*pair) for pair in trial.kept.values.get(f"{arm}, score", [])]


def score(trial: Trial, options: Any) -> None:
    """Let an engine answer the test rows with every arm, each as its best rate and first seed left it."""
    with tempfile.TemporaryDirectory(prefix="loraland-flow-") as folder:
        config = dataclasses.replace(read_config(), base_model=str(options.base), var_dir=Path(folder))
        config.adapters_dir.mkdir()
        for task in trial.target.tasks:
            put_into_store(ADAPTERS / task, config.adapters_dir)
        asked = {START: AdapterRef(trial.parts.digests[trial.start])}
        for arm in ARMS:
            if found := trial.best(arm):
                asked[arm] = _ref(trial, trial.home / f"{arm}, {found[0]:g}, {found[1][0]}", config.adapters_dir)
        engine = Engine(config)
        torch.set_num_threads(options.threads)
        recipe, rows = trial.target.recipe, trial.rows.test
        prompts = [fill(recipe.template, row.inputs) for row in rows]
        for arm, ref in asked.items():
            trial.kept.get(f"{arm}, score", lambda: _scored(engine, ref, prompts, rows, recipe))  # noqa: B023
            print(trial.target.name, arm, score_of(_tallies(trial, arm)), flush=True)
        engine.close()


def _scored(
    engine: Engine, ref: AdapterRef, prompts: list[str], rows: Sequence[Row], recipe: Recipe
) -> list[tuple[float, float]]:
    texts = answers(engine, ref, prompts, Sampling(max_tokens=recipe.max_answer))
    tallies = baseline.tallies([text.strip() for text in texts], rows, recipe)
    return [(tally.earned, tally.possible) for tally in tallies]


def _ref(trial: Trial, folder: Path, store: Path) -> AdapterRef:
    if not (folder / "gate.safetensors").is_file():
        return AdapterRef(put_into_store(folder, store))
    gate = read_gate(folder / "gate.safetensors")
    digest = gate_digest(gate)
    (store / digest).mkdir(exist_ok=True)
    write_gate(store / digest, gate)
    whole = blended_digest(trial.parts.digests, "flow", 0, 1.0, digest)
    parts = tuple(Component(part) for part in trial.parts.digests)
    return AdapterRef(whole, components=parts, gate=GateRef("flow", digest=digest))


if __name__ == "__main__":
    main()
