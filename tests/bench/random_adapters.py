"""Adapters of random weights in PEFT's format: they cost what trained ones cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.bench.workloads import NARROW, WIDE

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_SEVEN = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


def write_adapters(base: Path, directory: Path) -> list[Path]:
    """The 25 narrow and the 25 wide adapters for the base model in `base`, each in a folder of its name."""
    paths = [write(base, directory / name, seed, 8, ("q_proj", "v_proj")) for seed, name in enumerate(NARROW)]
    return paths + [write(base, directory / name, 1000 + seed, 16, ALL_SEVEN) for seed, name in enumerate(WIDE)]


def write(base: Path, directory: Path, seed: int, rank: int, modules: Iterable[str]) -> Path:
    """One adapter; the same `seed` makes the same one again."""
    shapes = _shapes(json.loads((base / "config.json").read_text()))
    layers, modules = shapes.pop("layers"), tuple(modules)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for module in modules:
            inputs, outputs = shapes[module]
            place = f"base_model.model.model.layers.{layer}.{'self_attn' if module in ATTENTION else 'mlp'}.{module}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * inputs**-0.5
            tensors[f"{place}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.02
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base.name, "r": rank}
    config |= {"lora_alpha": 2 * rank, "target_modules": list(modules), "bias": "none", "inference_mode": True}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def _shapes(config: dict[str, Any]) -> dict[str, Any]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    key = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, Any] = {"q_proj": (hidden, hidden), "k_proj": (hidden, key), "v_proj": (hidden, key)}
    shapes |= {"o_proj": (hidden, hidden), "gate_proj": (hidden, inner), "up_proj": (hidden, inner)}
    return shapes | {"down_proj": (inner, hidden), "layers": config["num_hidden_layers"]}
