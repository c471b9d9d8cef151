"""One task from rows to card: train, save, score, write down."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from tqdm import tqdm

from inference.tasks.baseline import STYLES
from inference.tasks.data import Split, read_split
from inference.tasks.recipe import Recipe
from inference.training.card import Making, write_card
from inference.training.examples import batches, encode_all
from inference.training.loop import train
from inference.training.model import add_adapter, load_base, round_adapter, save_adapter
from inference.training.scoring import Verdict, judge


@dataclass(frozen=True)
class Job:
    """What to train and where: `data` holds the rows, `out` receives the adapter, `part` is scored at the end."""

    recipe: Recipe
    data: Path
    out: Path
    base: Path
    base_name: str
    device: torch.device
    part: Literal["test", "validation"] = "test"


def run(job: Job) -> Verdict:
    """Do `job`, with progress bars on standard error, and return the scores that its card holds.

    Raises `DataError` before anything slow when the data is not there or does not fit.
    """
    split = read_split(job.data, job.recipe.task, job.recipe.field_names)
    model, tokenizer = load_base(job.base, job.device)
    started = time.monotonic()
    tuned, rows = train_adapter(job, model, tokenizer, split)
    minutes = (time.monotonic() - started) / 60
    verdict = _judge(job, tuned, tokenizer, split)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    making = Making(job.base_name, rows, minutes, device_name(job.device), today)
    write_card(job.out, job.recipe, making, verdict)
    return verdict


def train_adapter(job: Job, model: Any, tokenizer: Any, split: Split) -> tuple[PeftModel, int]:
    """Train an adapter in `model`, save it in `job.out`; returns it with the number of rows it could learn from."""
    recipe, schedule = job.recipe, job.recipe.schedule
    rows = encode_all(split.train, recipe, tokenizer)
    tuned = add_adapter(model, recipe.lora, schedule.seed)
    stream = batches(rows, schedule.batch, schedule.steps, schedule.seed, tokenizer.eos_token_id)
    with tqdm(total=schedule.steps, desc=recipe.task, unit="step") as bar:

        def show(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        train(tuned, stream, schedule, job.device, show)
    round_adapter(tuned)
    save_adapter(tuned, job.base_name, job.out)
    return tuned, len(rows)


def report(task: str, verdict: Verdict) -> str:
    """The verdict as one line of JSON."""
    return json.dumps({"task": task, "verdict": verdict.verdict, **dataclasses.asdict(verdict)})


def device_name(device: torch.device) -> str:
    """What a card says of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def _judge(job: Job, tuned: PeftModel, tokenizer: Any, split: Split) -> Verdict:
    rows = len(split.test if job.part == "test" else split.validation)
    total = 2 * rows + len(STYLES) * len(split.validation)
    with tqdm(total=total, desc=f"{job.recipe.task}, scoring", unit="answer") as bar:
        return judge(tuned, tokenizer, split, job.recipe, job.part, bar.update)
