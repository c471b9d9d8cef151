"""Adapters of PEFT written anew under other names, as other programs spell them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.model.architecture import read_architecture
from tests.inference.checkpoints import publish

FUSED = {"phi3", "glm", "glm4"}
"""Families whose checkpoints have several of our targets in one linear."""
_WEIGHTS = "adapter_model.safetensors"


def renamed(adapter: Path, store: Path, rename: Callable[[str], str]) -> str:
    """The `adapter` with each tensor under another name; its digest."""
    tensors = {rename(name): tensor for name, tensor in load_file(adapter / _WEIGHTS).items()}
    return _published(adapter, store, tensors, {})


def split(adapter: Path, model: Path, store: Path, keep_fused: bool = False) -> str:
    """The `adapter` of `model` with its fused linears' parts by themselves: A the same, B and magnitudes cut."""
    architecture = read_architecture(model / "config.json")
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(adapter / _WEIGHTS).items():
        module, part = _cut(name)
        places = architecture.places(module.removeprefix("base_model.model."))
        if len(places) == 1 or keep_fused:
            tensors[name] = tensor
        for place in places if len(places) > 1 else ():
            own = architecture.module_name(place.target, place.layer)
            share = tensor if part.startswith("lora_A") else tensor[place.outputs]
            tensors[f"base_model.model.{own}.{part}"] = share.contiguous().clone()
    wanted = sorted({_cut(name)[0].rpartition(".")[2] for name in tensors})
    return _published(adapter, store, tensors, {"target_modules": wanted})


def _cut(name: str) -> tuple[str, str]:
    for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"):
        if name.endswith(part):
            return name.removesuffix(f".{part}"), part
    raise AssertionError(name)


def _published(adapter: Path, store: Path, tensors: dict[str, Tensor], changes: dict[str, object]) -> str:
    staging = store / "renamed"
    shutil.copytree(adapter, staging)
    save_file(tensors, staging / _WEIGHTS, metadata={"format": "pt"})
    config = json.loads((staging / "adapter_config.json").read_text())
    (staging / "adapter_config.json").write_text(json.dumps(config | changes))
    for mapped in staging.glob("mapped*"):
        mapped.unlink()
    return publish(staging, store)
