"""Random adapters of methods besides LoRA, as PEFT saves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.inference.checkpoints import load_reference, publish

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]
"""Of a parsed config and the tensors beside it, in place."""


def save_method(model: Path, directory: Path, config: PeftConfig, seed: int = 0, size: float = 0.3) -> Path:
    """Save an adapter of `config` whose trained numbers are normal of width `size`."""
    torch.manual_seed(seed)
    trained = get_peft_model(load_reference(model), config)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad and name.endswith(".bias"):
                parameter += size * torch.randn_like(parameter)
            elif parameter.requires_grad:
                parameter.copy_(size * torch.randn_like(parameter))
    trained.save_pretrained(directory)
    return directory


def make_method(model: Path, store: Path, config: PeftConfig, seed: int = 0, size: float = 0.3) -> str:
    """The same in `store`, under its digest."""
    return publish(save_method(model, store / f"staging-{seed}", config, seed, size), store)


def change(directory: Path, edit: Change) -> None:
    """Let `edit` change the files of an adapter."""
    config, tensors = json.loads((directory / CONFIG).read_text()), load_file(directory / WEIGHTS)
    edit(config, tensors)
    (directory / CONFIG).write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS)
