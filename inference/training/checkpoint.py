"""Where a training stands, on disk, so that one that was killed goes on instead of starting over."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch

from inference.tasks.recipe import Recipe
from inference.training.loop import Learner

NAME = "checkpoint.pt"
EVERY = 25
"""Steps between two checkpoints."""
LONGEST_SECONDS = 60.0
"""Time between two checkpoints where steps are slow."""


def write_checkpoint(folder: Path, identity: str, learner: Learner[Any]) -> None:
    """Keep where `learner` stands in `folder`, in one piece; see `identity_of`."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{NAME}.partial"
    torch.save({"recipe": identity, **learner.state()}, partial)
    partial.replace(folder / NAME)


def read_checkpoint(folder: Path, identity: str, learner: Learner[Any]) -> bool:
    """Let `learner` go on from the checkpoint in `folder`; False when there is none of the same `identity`."""
    try:
        kept = torch.load(folder / NAME, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return False
    except (RuntimeError, EOFError, pickle.UnpicklingError):  # cut off by a full disk: what it held is computed again
        return False
    if kept.pop("recipe") != identity:
        return False
    learner.resume(kept)
    return True


def remove_checkpoint(folder: Path) -> None:
    """Forget the checkpoint in `folder`."""
    (folder / NAME).unlink(missing_ok=True)


def identity_of(recipe: Recipe, base: str) -> str:
    """What a training's numbers depend on, beside its rows, on the model `base`."""
    return identity_by(base, recipe.template, recipe.lora, recipe.schedule)


def identity_by(*decisive: object) -> str:
    return hashlib.sha256(repr(decisive).encode()).hexdigest()
