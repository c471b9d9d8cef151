"""Whether coefficients of random bases are worth their bytes: `python -m tests.bench.nola --data DIR --out DIR`.

Each arm learns the same rows in the same order for as many steps, at the rate that `--rates` found best for its kind on
the held-out rows of one task. Beside a NOLA stands a LoRA of rank 1 whose file holds as many numbers, in so few layers.
What is done lies in `--out` and is not done again; `--report` writes results/blends/nola.json of what there is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, Final

import torch

from inference.config import read_config
from inference.fetch import find_model
from inference.model.architecture import Architecture
from inference.tasks.data import Row, Split, read_split
from inference.tasks.metrics import Tally
from inference.tasks.recipe import Lora, Recipe, Schedule, load_recipe
from inference.training.adapter import Adapter, OfPairs, Pairs, save_adapter
from inference.training.checkpoint import EVERY, identity_of, read_checkpoint, remove_checkpoint, write_checkpoint
from inference.training.decoder import TrainingDecoder
from inference.training.examples import collate, encode_all
from inference.training.loop import Learner, Step, train
from inference.training.mixed import lay_end_to_end
from inference.training.nola import NolaAdapter
from inference.training.run import Job, load
from inference.training.scoring import serving, tuned_tallies
from tests.bench import claims

TASKS: Final = ("glue_sst2", "banking77", "viggo")
BATCH: Final = {"viggo": 4}
"""Rows of a step, where they are not 8: its prompts are three times as long."""
PROBE: Final = "banking77"
RATES: Final = {"r8": (1e-3, 3e-3), "nola": (1e-2, 3e-2, 1e-1), "lora": (3e-3, 1e-2, 3e-2)}
PROBED: Final = {"r8": "r8", "nola": "nola_64", "lora": "lora_64"}
PROBE_STEPS: Final = 40


@dataclass(frozen=True)
class Arm:
    """What learns; `layers` are those of a LoRA that are not all, spread evenly."""

    name: str
    lora: Lora
    layers: int = 0

    @property
    def kind(self) -> str:
        return self.name.partition("_")[0]

    def adapter(self, architecture: Architecture, seed: int) -> OfPairs:
        if self.lora.nola_basis:
            return NolaAdapter(architecture, self.lora, seed)
        if self.layers:
            return FewLayers(architecture, self.lora, seed, self.layers)
        return Adapter(architecture, self.lora, seed)


ARMS: Final = (
    Arm("r8", Lora(rank=8, lora_alpha=16)),
    Arm("nola_64", Lora(rank=8, lora_alpha=16, nola_basis=64)),
    Arm("lora_64", Lora(rank=1, lora_alpha=2), layers=4),
    Arm("nola_256", Lora(rank=8, lora_alpha=16, nola_basis=256)),
    Arm("lora_256", Lora(rank=1, lora_alpha=2), layers=16),
    Arm("nola_16", Lora(rank=8, lora_alpha=16, nola_basis=16)),
    Arm("lora_16", Lora(rank=1, lora_alpha=2), layers=1),
)
"""In the order of their worth to the question. With 60 modules k bases are 120 k numbers, and rank 1 of q and v has
1,920 a layer: 64 bases are four layers."""


class FewLayers(Adapter):
    """A LoRA in some of the layers."""

    def __init__(self, architecture: Architecture, lora: Lora, seed: int, count: int) -> None:
        super().__init__(replace(architecture, num_layers=count), lora, seed)
        total = architecture.num_layers
        self._chosen = [(2 * place + 1) * total // (2 * count) for place in range(count)]
        self._num_layers = total
        self._module_name = lambda target, index: architecture.module_name(target, self._chosen[index])

    def pairs(self) -> Pairs:
        own = dict(zip(self._chosen, self.layers, strict=True))
        return tuple(own.get(index, {}) for index in range(self._num_layers))

    def config(self) -> dict[str, Any]:
        return super().config() | {"layers_to_transform": self._chosen}


@dataclass(frozen=True)
class World:
    """What every arm of a task learns from."""

    recipe: Recipe
    split: Split
    decoder: TrainingDecoder
    tokenizer: Any

    def learner(self, arm: Arm, schedule: Schedule) -> Learner[Any]:
        rows = encode_all(self.split.train, self.recipe, self.tokenizer)
        adapter = arm.adapter(self.decoder.architecture, schedule.seed)
        return Learner(self.recipe.task, adapter, rows, schedule, self.tokenizer.eos_token_id)

    @torch.no_grad()
    def loss(self, adapter: OfPairs, rows: Sequence[Row]) -> float:
        """Nats a token of the answers of `rows`."""
        encoded = sorted(encode_all(rows, self.recipe, self.tokenizer), key=lambda each: len(each.token_ids))
        total, tokens = 0.0, 0
        for some in _in_pieces(encoded, 16):
            batch = lay_end_to_end([collate(some, self.tokenizer.eos_token_id)])
            total += float(self.decoder.losses(batch, [adapter])[0]) * len(batch.answers)
            tokens += len(batch.answers)
        return total / tokens


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if options.report:
        print(claims.write("nola", report(options.out, options.seeds)))
        return
    rates = _rates(options)
    for arms in (ARMS[:3], ARMS[3:5], ARMS[5:]):
        for seed in options.seeds:
            for task, arm in product(TASKS, arms):
                if not _done(options.out, task, arm.name, seed).exists():
                    _one(options, task, arm, seed, rates[arm.kind])


def _one(options: argparse.Namespace, task: str, arm: Arm, seed: int, rate: float) -> None:
    world, job = _world(task, options.data), _job(task, options, arm.name, seed)
    schedule = _schedule(world.recipe, options.steps, rate, seed)
    recipe = replace(world.recipe, lora=arm.lora, schedule=schedule)
    learner, identity = world.learner(arm, schedule), identity_of(recipe, job.base_name)
    read_checkpoint(job.out, identity, learner)

    def kept(steps: Sequence[Step]) -> None:
        if learner.steps_done % EVERY == 0:
            write_checkpoint(job.out, identity, learner)

    train(world.decoder, [learner], kept)
    learner.adapter.round()
    save_adapter(learner.adapter, job.base_name, job.out)
    loss = world.loss(learner.adapter, world.split.test)
    with serving([replace(job, recipe=recipe)]) as (engine, adapters):
        tallies = tuned_tallies(engine, adapters[0], world.split.test, world.recipe, lambda: None)
    told = {"loss": loss, "rate": rate, "steps": options.steps, "bytes": _bytes(learner.adapter)}
    told |= {"tallies": [[tally.earned, tally.possible] for tally in tallies]}
    _done(options.out, task, arm.name, seed).write_text(json.dumps(told))
    remove_checkpoint(job.out)
    score = sum(tally.earned for tally in tallies) / sum(tally.possible for tally in tallies)
    print(f"{task} {arm.name} seed {seed}: score {100 * score:.1f}, loss {loss:.3f}, {told['bytes']} bytes", flush=True)


def _rates(options: argparse.Namespace) -> dict[str, float]:
    """The rate of each kind that does best on the held-out rows of one task after few steps."""
    place = options.out / "rates.json"
    losses: dict[str, dict[str, float]] = json.loads(place.read_text()) if place.exists() else {}
    options.out.mkdir(parents=True, exist_ok=True)
    for kind, name in PROBED.items():
        arm = next(each for each in ARMS if each.name == name)
        for rate in RATES[kind]:
            if str(rate) in losses.setdefault(kind, {}):
                continue
            world = _world(PROBE, options.data)
            learner = world.learner(arm, _schedule(world.recipe, PROBE_STEPS, rate, 1))
            train(world.decoder, [learner])
            losses[kind][str(rate)] = world.loss(learner.adapter, world.split.validation)
            print(f"rate {rate:g} of {name}: loss {losses[kind][str(rate)]:.3f}", flush=True)
            place.write_text(json.dumps(losses))
    return {kind: float(min(found, key=lambda rate: found[rate])) for kind, found in losses.items()}


def report(out: Path, seeds: Sequence[int]) -> claims.Claim:
    """The claim as it stands with what is done: of the tasks that the first three arms have learnt, and the arms that
    have learnt these, with all seeds."""
    tasks = [task for task in TASKS if all(_are_done(out, task, arm.name, seeds) for arm in ARMS[:3])]
    some = [arm.name for arm in ARMS if all(_are_done(out, task, arm.name, seeds) for task in tasks)]
    whole = {name: list(_kept(out, name, seeds, tasks)) for name in some}
    tallies = {name: [[Tally(*pair) for pair in each["tallies"]] for each in told] for name, told in whole.items()}
    arms = {
        name: claims.arm_of(
            tallies[name],
            loss=sum(each["loss"] for each in told) / len(told),
            bytes=told[0]["bytes"],
        )
        for name, told in whole.items()
    }
    pairs = [(f"nola_{k}", other) for k in (16, 64, 256) for other in ("r8", f"lora_{k}")]
    compared = [claims.compared(a, b, tallies) for a, b in pairs if a in arms and b in arms]
    return claims.Claim(
        title="NOLA: an adapter as coefficients of random bases",
        paper="Koohpayegani et al., ICLR 2024 (arXiv 2310.02556)",
        claim="Coefficients of random bases do as well as LoRA with far fewer parameters.",
        bar="At 1/20 or less of the bytes of rank 8 it loses at most 2 points to rank 8, pooled, and beats a LoRA of "
        "as many bytes; both by their intervals.",
        verdict=_verdict({(each.a, each.b): each for each in compared}),
        arms=arms,
        comparisons=compared,
        command=f"python -m tests.bench.nola --data DATASETS --out DIR --steps {_steps(whole)}",
        seeds=list(seeds),
        notes=_notes(out, whole, tasks),
    )


def _verdict(compared: dict[tuple[str, str], claims.Comparison]) -> Any:
    """By the arms of 1/20 of the bytes or less. Refuted is what lies wholly below the bar: by either of its halves."""
    small = [(compared.get((f"nola_{k}", "r8")), compared.get((f"nola_{k}", f"lora_{k}"))) for k in (16, 64)]
    pairs = [(whole, equal) for whole, equal in small if whole and equal]
    if any(whole.low >= -0.02 and equal.low > 0 for whole, equal in pairs):
        return "shown"
    is_below = [whole.high < -0.02 or equal.high < 0 for whole, equal in pairs]
    return "refuted here" if pairs and all(is_below) else "not shown"


def _notes(out: Path, whole: dict[str, Any], tasks: Sequence[str]) -> list[str]:
    rates = json.loads((out / "rates.json").read_text())
    missing = [arm.name for arm in ARMS if arm.name not in whole]
    best = {kind: min(found, key=lambda rate: found[rate]) for kind, found in rates.items()}
    return [
        f"{', '.join(tasks)}; {_steps(whole)} steps of 8 rows (viggo 4), which is less than any recipe has.",
        f"Rates, chosen after {PROBE_STEPS} steps on held-out rows of {PROBE}: "
        + ", ".join(f"{kind} {rate}" for kind, rate in best.items())
        + ", of each kind the best of those tried; the two LoRAs' are the highest that were.",
        "lora_K is rank 1 on q and v of so few layers, spread evenly, that its file is as large as that of K bases.",
        "The paper's steps are of 32 times as many rows: what more of them would change was not tried. One seed; no "
        "VeRA learns here, and no coefficients of 8 or 4 bits were tried.",
        *([f"Not run: {', '.join(missing)}."] if missing else []),
    ]


def _steps(whole: dict[str, Any]) -> int:
    return next((told[0]["steps"] for told in whole.values()), 0)


def _are_done(out: Path, task: str, arm: str, seeds: Sequence[int]) -> bool:
    return all(_done(out, task, arm, seed).exists() for seed in seeds)


def _kept(out: Path, arm: str, seeds: Sequence[int], tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    for seed, task in product(seeds, tasks):
        yield json.loads(_done(out, task, arm, seed).read_text())


def _world(task: str, data: Path) -> World:
    recipe = load_recipe(task)
    if task not in _worlds:
        job = Job(recipe, data, data, find_model(read_config()), "")
        _worlds.clear()
        _worlds[task] = World(recipe, read_split(data, task, recipe.field_names), *load(job.base, job.device))
    return _worlds[task]


_worlds: dict[str, World] = {}


def _job(task: str, options: argparse.Namespace, arm: str, seed: int) -> Job:
    config = read_config()
    place = options.out / f"{task}-{arm}-{seed}"
    return Job(load_recipe(task), options.data, place, find_model(config), Path(str(config.base_model)).name)


def _schedule(recipe: Recipe, steps: int, rate: float, seed: int) -> Schedule:
    batch = BATCH.get(recipe.task, 8)
    return dataclasses.replace(recipe.schedule, steps=steps, batch=batch, learning_rate=rate, seed=seed)


def _done(out: Path, task: str, arm: str, seed: int) -> Path:
    return out / f"{task}-{arm}-{seed}.json"


def _bytes(adapter: OfPairs) -> int:
    """Of the numbers of its file, in bfloat16."""
    return 2 * sum(tensor.numel() for _, tensor in adapter.named_tensors())


def _in_pieces(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    remaining = iter(rows)
    while piece := list(islice(remaining, size)):
        yield piece


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder for each task")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="what was done, to go on from")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--report", action="store_true", help="write the claim of what is done, and learn nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
