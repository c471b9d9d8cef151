"""A linear recovery of CA-LoRA (Zhao et al., 2024) and the adapter that it recovers, as one LoRA of both their ranks.

Its code trains the two side by side, both of them, and PEFT saves each in a folder of its name. What they add is
[B1·s1 | B2·s2] times A1 above A2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters.config import LoraConfig, check_config
from inference.adapters.config_file import ConfigRefused, read_config
from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.identity import part_of
from inference.adapters.methods.method import MOST_RANK

FOLDERS: Final = ("inherit", "recover")
Pairs = dict[str, dict[str, Tensor]]
"""A [rank, in] and B [out, rank] by module."""


class NotJoined(ValueError):
    """Two folders that make no LoRA together; the message is a sentence."""


def is_recovered(folder: Path) -> bool:
    """Whether `folder` holds an adapter and its recovery, each in a folder of its own."""
    return all((folder / name / CONFIG).is_file() for name in FOLDERS)


def write_as_one(folder: Path, read: Callable[[Path], dict[str, Tensor]], target: Path) -> None:
    """Write both adapters in `folder` as one into the existing folder `target`. `read` gives the tensors of a folder.
    Raises `NotJoined`."""
    configs = [_read_config(folder / name / CONFIG) for name in FOLDERS]
    meanings = [_meaning(name, config) for name, config in zip(FOLDERS, configs, strict=True)]
    both = [_scaled(folder / name, read, meaning) for name, meaning in zip(FOLDERS, meanings, strict=True)]
    pairs = _joined(both)
    names = {(module, side): f"base_model.model.{module}.lora_{side}.weight" for module in pairs for side in "AB"}
    tensors = {name: pairs[module][side] for (module, side), name in names.items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    told = _config(pairs, configs[0].get("base_model_name_or_path"))
    (target / CONFIG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_config(path)
    except (ConfigRefused, OSError) as error:
        raise NotJoined(f"{path} cannot be read: {error}") from error


def _meaning(name: str, config: dict[str, Any]) -> LoraConfig:
    meaning, reasons = check_config(config, MOST_RANK)
    if meaning is None or reasons:
        raise NotJoined(f"The adapter in {name} is refused: {' '.join(reasons)}")
    if meaning.is_dora or meaning.method or meaning.has_shifts:
        raise NotJoined(f"The adapter in {name} is no plain LoRA; only two of these make one.")
    return meaning


def _scaled(folder: Path, read: Callable[[Path], dict[str, Tensor]], meaning: LoraConfig) -> Pairs:
    pairs: Pairs = {}
    for name, tensor in read(folder).items():
        module, side = part_of(name) or ("", "")
        if side not in ("A", "B") or not name.endswith(".weight"):
            raise NotJoined(f"{folder} holds {name}, which is no matrix of a LoRA on a linear.")
        scale = meaning.scaling(module) if side == "B" else 1.0
        pairs.setdefault(module, {})[side] = tensor.to(torch.float32) * scale
    for module, pair in pairs.items():
        if len(pair) < 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise NotJoined(f"{folder} has no A and B of one rank for {module}.")
    return pairs


def _joined(both: list[Pairs]) -> Pairs:
    joined: Pairs = {}
    for module in sorted({*both[0], *both[1]}):
        found = [pairs[module] for pairs in both if module in pairs]
        try:
            a, b = torch.cat([pair["A"] for pair in found]), torch.cat([pair["B"] for pair in found], dim=1)
        except RuntimeError as error:
            raise NotJoined(f"{module} has other widths in {FOLDERS[1]} than in {FOLDERS[0]}.") from error
        joined[module] = {"A": a, "B": b}
    return joined


def _config(pairs: Pairs, base: Any) -> dict[str, Any]:
    """PEFT's config of `pairs`, whose scale is 1."""
    ranks = {module: len(pair["A"]) for module, pair in pairs.items()}
    rank = max(ranks.values())
    others = {module: own for module, own in ranks.items() if own != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "bias": "none",
        "inference_mode": True,
    }
