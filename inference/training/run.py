"""Tasks from rows to cards: train some together, save, write down."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from inference.tasks.card import EmbeddingTable, card_of, write_card
from inference.tasks.data import read_split
from inference.tasks.embedding import bare
from inference.tasks.recipe import Recipe
from inference.tasks.vectors import embedding_of
from inference.training.adapter import CPU, Adapter, OfPairs, save_adapter
from inference.training.checkpoint import (
    EVERY,
    LONGEST_SECONDS,
    identity_of,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from inference.training.decoder import TrainingDecoder
from inference.training.examples import Encoded, encode_all, invocation_of
from inference.training.loop import Learner, Step, train
from inference.training.nola import NolaAdapter


class Cancelled(Exception):
    """A training that is no longer wanted; its checkpoint stays."""


@dataclass(frozen=True)
class Job:
    """What to train and where: `data` holds the rows, `out` receives the adapter."""

    recipe: Recipe
    data: Path
    out: Path
    base: Path
    base_name: str
    device: torch.device = CPU


@dataclass(frozen=True)
class Trained:
    """An adapter that lies in its job's folder: the rows it could learn from, and the minutes it took."""

    job: Job
    rows: int
    minutes: float


def train_jobs(
    jobs: Sequence[Job], on_step: Callable[[Step], None], is_wanted: Callable[[], bool] = lambda: True
) -> list[Trained]:
    """Train the adapters of `jobs` in one pass over their base and save each in its folder, with a card.

    A job that was interrupted goes on from its checkpoint; `is_wanted` is asked after every pass. Raises `DataError`
    before anything slow when data is not there or does not fit, `Cancelled` when it is not wanted any more, and
    FloatingPointError when a training diverges.
    """
    splits = [read_split(job.data, job.recipe.task, job.recipe.field_names) for job in jobs]
    decoder, tokenizer = load(jobs[0].base, jobs[0].device)
    learners = []
    for job, split in zip(jobs, splits, strict=True):
        rows = encode_all(split.train, job.recipe, tokenizer)
        learners.append(_learner(job, rows, decoder, tokenizer))

    kept = time.monotonic()

    def on_pass(steps: Sequence[Step]) -> None:
        nonlocal kept
        wanted = is_wanted()
        for step in steps:
            on_step(step)
        is_late = not wanted or time.monotonic() - kept > LONGEST_SECONDS
        for job, learner in zip(jobs, learners, strict=True):
            if is_late or learner.steps_done % EVERY == 0:
                write_checkpoint(job.out, identity_of(job.recipe, job.base_name), learner)
                kept = time.monotonic()
        if not wanted:
            raise Cancelled

    train(decoder, learners, on_pass)
    return [finish(job, learner) for job, learner in zip(jobs, learners, strict=True)]


def device_name(device: torch.device) -> str:
    """What a card says of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def load(base: Path, device: torch.device) -> tuple[TrainingDecoder, Any]:
    """The base in the folder `base`, and its tokenizer. Raises ValueError for one that is not trained here."""
    architecture = read_architecture(base / "config.json")
    weights = load_weights(base, architecture, torch.bfloat16, device)
    return TrainingDecoder(architecture, weights), AutoTokenizer.from_pretrained(base)


def _learner(job: Job, rows: Sequence[Encoded], decoder: TrainingDecoder, tokenizer: Any) -> Learner[Any]:
    """The adapter of `job` where its checkpoint left it, or a fresh one."""
    schedule = job.recipe.schedule
    adapter = _fresh(job, decoder, invocation_of(job.recipe, tokenizer))
    learner = Learner(job.recipe.task, adapter, rows, schedule, tokenizer.eos_token_id)
    read_checkpoint(job.out, identity_of(job.recipe, job.base_name), learner)
    return learner


def _fresh(job: Job, decoder: TrainingDecoder, invocation: tuple[int, ...]) -> OfPairs:
    lora, seed = job.recipe.lora, job.recipe.schedule.seed
    if lora.nola_basis:
        return NolaAdapter(decoder.architecture, lora, seed, job.device)
    return Adapter(decoder.architecture, lora, seed, job.device, invocation)


def finish(job: Job, learner: Learner[Any]) -> Trained:
    """Save what `learner` has learned in the folder of `job`, with a card."""
    learner.adapter.round()
    save_adapter(learner.adapter, job.base_name, job.out)
    trained = Trained(job, learner.num_rows, learner.seconds / 60)
    card = card_of(job.recipe, job.base_name, trained.rows, trained.minutes, device_name(job.device))
    write_card(job.out, replace(card, embedding=_embedding(job)))
    remove_checkpoint(job.out)
    return trained


def _embedding(job: Job) -> EmbeddingTable:
    """What the rows that it learned from look like, by which `auto` finds it."""
    fields = job.recipe.field_names
    split = read_split(job.data, job.recipe.task, fields)
    found = embedding_of([bare(row.inputs, fields) for row in split.train])
    return found.table() if found else {}
