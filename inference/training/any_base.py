"""Training on whatever base is served: by our own passes where its gradients are computed here, else through PEFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from inference.model.architecture import Architecture, read_architecture, untrained
from inference.training.loop import Step
from inference.training.qlora import train_qlora
from inference.training.run import Job, Trained, train_jobs


def train(
    jobs: Sequence[Job], on_step: Callable[[Step], None], is_wanted: Callable[[], bool] = lambda: True
) -> list[Trained]:
    """As `train_jobs`, for a base of any family; through PEFT the adapters learn one after the other."""
    architecture = read_architecture(jobs[0].base / "config.json")
    if not untrained(architecture, max(job.recipe.schedule.max_length for job in jobs)):
        return train_jobs(jobs, on_step, is_wanted)
    named = [with_names_of(architecture, job) for job in jobs]
    return [train_qlora(job, on_step, is_wanted, load_plain, dropout=0.0) for job in named]


def load_plain(folder: Path, device: torch.device) -> Any:
    """The base of `folder` on `device`: in bfloat16 on a GPU, in float32 on a CPU, many of which multiply it faster."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return base.to(device)


def with_names_of(architecture: Architecture, job: Job) -> Job:
    """`job` with its targets as the base's checkpoints spell them: a fused linear learns for each of its parts."""
    targets = (target for target in job.recipe.lora.target_modules if target in architecture.targets)
    names = map(architecture.published_name, targets)
    lora = replace(job.recipe.lora, target_modules=tuple(dict.fromkeys(names)))
    return replace(job, recipe=replace(job.recipe, lora=lora))
