"""A blend's gate from rows to its file: parts, base and rows read, the gate trained, measured and saved with a card."""

from __future__ import annotations

import datetime
import random
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from inference.adapters.gate_file import write_gate
from inference.adapters.stored_gate import StoredGate
from inference.model.architecture import Architecture, read_architecture
from inference.tasks.bootstrap import paired_interval
from inference.tasks.card import CARD, TEXTS, Card, TrainingTable, write_card
from inference.tasks.data import DataError, Row, Split, read_split
from inference.tasks.embedding import bare, of_table
from inference.tasks.gate_recipe import GateRecipe
from inference.tasks.metrics import Tally, score
from inference.tasks.recipe import Lora, Recipe
from inference.tasks.vectors import Vector, embed, vector_of
from inference.training.adapter import CPU
from inference.training.checkpoint import (
    EVERY,
    LONGEST_SECONDS,
    identity_by,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from inference.training.decoder import TrainingDecoder
from inference.training.examples import Encoded, encode_all
from inference.training.gate_learner import GateLearner, row_losses
from inference.training.gate_parts import PartRefused, Parts, read_parts
from inference.training.gated import FlowGate, Gated, RamoleGate
from inference.training.loop import Step, train
from inference.training.run import Cancelled, device_name, load
from inference.training.scoring import Part

MOST_RANK: Final = 512
"""Ranks of a router's parts together; it is served with others, a few at a time."""


@dataclass(frozen=True)
class GateJob:
    """What to train and where: a gate over the adapters in the folders `parts`, on the rows of each task, which lie in
    the folder beside its recipe; `out` receives it. `max_rank` is the most that is served together."""

    gate: GateRecipe
    parts: tuple[Path, ...]
    tasks: tuple[tuple[Recipe, Path], ...]
    out: Path
    base: Path
    base_name: str
    device: torch.device = CPU
    max_rank: int = 64

    @property
    def name(self) -> str:
        """As it stands in the recipe, else those of its parts, as many as a card has room for."""
        return self.gate.name or " + ".join(folder.name for folder in self.parts)[: TEXTS["name"]].strip(" +")


@dataclass(frozen=True)
class TrainedGate:
    """A gate that lies in its job's folder, the rows that it learned from, and the minutes it took.

    `before` and `after` are the losses in nats a token of answers on the rows that it is measured on, `n` of them, and
    `change` the 95 % interval of after - before, by rows. Nothing is measured where there are no such rows.
    """

    job: GateJob
    rows: int
    minutes: float
    n: int = 0
    before: float | None = None
    after: float | None = None
    change: tuple[float, float] | None = None

    def told(self) -> dict[str, Any]:
        """For a line of JSON."""
        about = {"blend": self.job.name, "kind": self.job.gate.kind, "out": str(self.job.out), "rows": self.rows}
        about |= {"minutes": round(self.minutes, 1)}
        if not (found := self.losses):
            return about
        change = [found["loss_low"], found["loss_high"]]
        return about | {"n": self.n, "before": found["loss_before"], "after": found["loss_after"], "change": change}

    @property
    def losses(self) -> TrainingTable:
        """What was measured, for its card; nothing where nothing was."""
        if self.before is None or self.after is None or self.change is None:
            return {}
        before, after, low, high = (round(value, 4) for value in (self.before, self.after, *self.change))
        return {
            "loss_rows": self.n,
            "loss_before": before,
            "loss_after": after,
            "loss_low": low,
            "loss_high": high,
        }


def train_gate(
    job: GateJob,
    on_step: Callable[[Step], None],
    is_wanted: Callable[[], bool] = lambda: True,
    measured_on: Part | None = None,
) -> TrainedGate:
    """Train the gate of `job` and save it in its folder, with a card; see `inference.training.run.train_jobs`.

    Raises `PartRefused` besides, before anything slow, and OSError.
    """
    splits = [read_split(folder, recipe.task, recipe.field_names) for recipe, folder in job.tasks]
    near, architecture = _Nearest(job), read_architecture(job.base / "config.json")
    parts = _parts(job, architecture)
    decoder, tokenizer = load(job.base, job.device)
    gate = _fresh(job, parts, architecture)

    def encoded(part: str) -> list[Encoded]:
        return [each for rows in _encoded(job, splits, part, tokenizer, near) for each in rows]

    judged = encoded(measured_on) if measured_on else []
    before = row_losses(decoder, gate, judged, tokenizer.eos_token_id, is_wanted)
    rows = _evenly(_encoded(job, splits, "train", tokenizer, near))
    dropout = job.gate.dropout if job.gate.kind == "ramole" else 0.0
    learner = GateLearner(job.name, gate, rows, job.gate.schedule, tokenizer.eos_token_id, dropout)
    _learn(job, learner, decoder, parts, on_step, is_wanted)
    after = row_losses(decoder, gate, judged, tokenizer.eos_token_id, is_wanted)
    trained = _measured(TrainedGate(job, len(rows), learner.seconds / 60), before, after)
    _save(trained, gate, parts)
    return trained


def _learn(
    job: GateJob,
    learner: GateLearner,
    decoder: TrainingDecoder,
    parts: Parts,
    on_step: Callable[[Step], None],
    is_wanted: Callable[[], bool],
) -> None:
    templates = [recipe.template for recipe, _ in job.tasks]
    identity, kept = identity_by(job.base_name, job.gate, parts.digests, templates), time.monotonic()
    read_checkpoint(job.out, identity, learner)

    def on_pass(steps: Sequence[Step]) -> None:
        nonlocal kept
        wanted = is_wanted()
        for step in steps:
            on_step(step)
        if not wanted or learner.steps_done % EVERY == 0 or time.monotonic() - kept > LONGEST_SECONDS:
            write_checkpoint(job.out, identity, learner)
            kept = time.monotonic()
        if not wanted:
            raise Cancelled

    train(decoder, [learner], on_pass)


def _parts(job: GateJob, architecture: Architecture) -> Parts:
    """A flow gate is for its parts, so they must be served together; a router's are a pool to learn from."""
    most = job.max_rank if job.gate.kind == "flow" else MOST_RANK
    return read_parts(job.parts, job.base, architecture, most, job.device)


def _fresh(job: GateJob, parts: Parts, architecture: Architecture) -> Gated:
    own = job.gate
    if own.kind == "flow":
        start = own.parts.index(own.start)
        return FlowGate(parts.by_target, architecture.hidden_size, start, own.temperature)
    return RamoleGate(parts.by_target, own.g, own.schedule.seed, own.temperature, own.top_k)


class _Nearest:
    """Which parts a row may be answered by: those whose inputs, as their cards have them, are nearest to its own."""

    def __init__(self, job: GateJob) -> None:
        self._most = job.gate.nearest
        self._vectors = np.stack([_vector(folder) for folder in job.parts]) if self._most else None

    def of(self, row: Row, recipe: Recipe) -> tuple[int, ...]:
        """Their numbers; none where all may."""
        if self._vectors is None:
            return ()
        near = self._vectors @ embed(bare(row.inputs, recipe.field_names))
        return tuple(sorted(int(place) for place in np.argsort(-near, kind="stable")[: self._most]))


def _vector(folder: Path) -> Vector:
    card = folder / CARD
    table = tomllib.loads(card.read_text(encoding="utf-8")).get("embedding", {}) if card.is_file() else {}
    found = of_table(table)
    if found is None:
        raise PartRefused(
            f"{folder} has no [embedding] in its {CARD}, by which the nearest parts are found; set nearest = 0"
        )
    return vector_of(found)


def _encoded(job: GateJob, splits: Sequence[Split], part: str, tokenizer: Any, near: _Nearest) -> list[list[Encoded]]:
    """The rows of each task as tokens, of the length that the gate's schedule allows."""
    found = []
    for (recipe, _), split in zip(job.tasks, splits, strict=True):
        bounded = replace(recipe, schedule=job.gate.schedule, lora=Lora())
        encoded = []
        for row in getattr(split, part):
            kept = _fitting(row, bounded, tokenizer)
            encoded += [replace(each, parts=near.of(row, recipe)) for each in kept]
        if not encoded:
            raise DataError(
                f"no row of {recipe.task} fits max_length = {job.gate.schedule.max_length} tokens; raise it"
            )
        found.append(encoded)
    return found


def _fitting(row: Row, recipe: Recipe, tokenizer: Any) -> list[Encoded]:
    try:
        return encode_all([row], recipe, tokenizer)
    except ValueError:
        return []


def _evenly(tasks: Sequence[list[Encoded]]) -> list[Encoded]:
    """As many rows of each task as the smallest has, so that none is learned from more than another."""
    least = min(map(len, tasks))
    return [row for rows in tasks for row in random.Random(0).sample(rows, least)]


def _measured(trained: TrainedGate, before: Sequence[Tally], after: Sequence[Tally]) -> TrainedGate:
    if not after:
        return trained
    change = paired_interval(before, after)
    return replace(trained, n=len(after), before=-score(before), after=-score(after), change=change)


def _save(trained: TrainedGate, gate: Gated, parts: Parts) -> None:
    job, own = trained.job, trained.job.gate
    job.out.mkdir(parents=True, exist_ok=True)
    bound = parts.digests if own.kind == "flow" else ()
    stored = StoredGate(own.kind, dict(gate.named_tensors()), job.base_name, bound, own.top_k, own.temperature)
    write_gate(job.out, stored)
    write_card(job.out, _card(trained))
    remove_checkpoint(job.out)


def _card(trained: TrainedGate) -> Card:
    """Its prompt is its task's; one that learned from several tasks has none of its own."""
    job, recipe = trained.job, trained.job.tasks[0][0]
    about = Card(name=job.name, category="Blends", summary=job.gate.summary, base=job.base_name, license=recipe.license)
    about = replace(about, author=recipe.author, training=_training(trained))
    names = ", ".join(each.dataset.name for each, _ in job.tasks)
    about = replace(about, dataset={"name": names[:200], "train_rows": trained.rows})
    if len(job.tasks) > 1:
        return about
    fields, examples = ([asdict(each) for each in some] for some in (recipe.fields, recipe.examples))
    return replace(about, template=recipe.template, fields=fields, examples=examples)


def _training(trained: TrainedGate) -> TrainingTable:
    own, schedule = trained.job.gate, trained.job.gate.schedule
    told: TrainingTable = {
        "gate": own.kind,
        "parts": [folder.name for folder in trained.job.parts],
        "temperature": float(own.temperature),
        "steps": schedule.steps,
        "batch": schedule.batch,
        "learning_rate": schedule.learning_rate,
        "max_length": schedule.max_length,
        "seed": schedule.seed,
        "minutes": round(trained.minutes, 1),
        "device": device_name(trained.job.device),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    told |= trained.losses
    return told if own.kind == "flow" else {**told, "g": own.g, "top_k": own.top_k}
