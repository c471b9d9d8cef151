"""An adapter as mlx-lm saves it, in PEFT's form. MLX keeps the factors transposed, under names of its own, and says by
how much they are scaled where PEFT says `lora_alpha` over the rank.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.adapters.examination import CONFIG, WEIGHTS
from inference.model.spec import EMBEDDING

ADAPTERS: Final = "adapters.safetensors"
_FACTOR: Final = re.compile(r"(.+)\.(lora_a|lora_b|m)")
_LAYER: Final = re.compile(r"\.layers\.(\d+)\.")
_PEFT: Final = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_OF_EMBEDDING: Final = {"lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B", "m": "lora_magnitude_vector"}


class NotMlx(ValueError):
    """An adapter of MLX that has no form in PEFT, or files that are none; the message is a sentence."""


@dataclass(frozen=True)
class Settings:
    """What adapter_config.json of mlx-lm says of an adapter."""

    model: str
    rank: int
    scale: float
    uses_dora: bool


def is_mlx(folder: Path) -> bool:
    """Whether mlx-lm saved an adapter in `folder`."""
    return (folder / ADAPTERS).is_file()


def write_as_peft(folder: Path, target: Path) -> None:
    """Write the adapter that mlx-lm saved in `folder` into the existing folder `target` as PEFT's two files. Raises
    `NotMlx`."""
    settings, factors = _read_settings(folder / CONFIG), _read_factors(folder / ADAPTERS)
    _check(settings, factors)
    config = _peft_config(settings, sorted({module for module, _ in factors}))
    tensors = {
        f"base_model.model.{module}.{_names_of(module)[part]}": (factor if part == "m" else factor.T).contiguous()
        for (module, part), factor in factors.items()
    }
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read_settings(path: Path) -> Settings:
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
        kind, parameters = told.get("fine_tune_type", "lora"), told.get("lora_parameters") or {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise NotMlx(f"{path} cannot be read as mlx-lm's config, which lies beside {ADAPTERS}: {error}") from error
    if kind not in ("lora", "dora"):
        raise NotMlx(f"{path} has fine_tune_type {kind!r}: all weights were trained; only lora and dora are adapters.")
    rank, scale, model = parameters.get("rank"), parameters.get("scale"), told.get("model")
    if not isinstance(rank, int) or isinstance(rank, bool) or not isinstance(scale, int | float):
        raise NotMlx(f"{path} says no rank and scale in lora_parameters, as mlx-lm does since 2024.")
    if not 0 < scale < 1e6:
        raise NotMlx(f"{path} has the scale {scale}; PEFT's lora_alpha, the scale times the rank, is a number above 0.")
    return Settings(model if isinstance(model, str) else "", rank, float(scale), kind == "dora")


def _read_factors(path: Path) -> dict[tuple[str, str], Tensor]:
    """The tensors by module and part."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise NotMlx(f"{path} cannot be read as safetensors: {error}") from error
    matches = {name: _FACTOR.fullmatch(name) for name in tensors}
    if others := [name for name, found in matches.items() if found is None]:
        raise NotMlx(f"{path} holds {others[0]}, which is no factor of LoRA; such an adapter has no form in PEFT.")
    return {(found[1], found[2]): tensors[name] for name, found in matches.items() if found}


def _check(settings: Settings, factors: dict[tuple[str, str], Tensor]) -> None:
    """Each module has both factors, of the rank that the config says."""
    wanted = {"lora_a", "lora_b"} | ({"m"} if settings.uses_dora else set())
    modules = {module: {part for other, part in factors if other == module} for module, _ in factors}
    if not modules:
        raise NotMlx(f"{ADAPTERS} holds no tensors; train the adapter again.")
    for module, parts in modules.items():
        if parts != wanted:
            raise NotMlx(
                f"{module} has {', '.join(sorted(parts))}; an adapter has {', '.join(sorted(wanted))} of each."
            )
        a, b = factors[module, "lora_a"], factors[module, "lora_b"]
        if a.dim() != 2 or b.dim() != 2 or {a.shape[1], b.shape[0]} != {settings.rank}:
            shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
            raise NotMlx(
                f"{module} has factors {shapes}; with rank {settings.rank} they are [in, rank] and [rank, out]."
            )


def _names_of(module: str) -> dict[str, str]:
    return _OF_EMBEDDING if module.endswith(EMBEDDING) else _PEFT


def _peft_config(settings: Settings, modules: list[str]) -> dict[str, Any]:
    """PEFT's config of an adapter on `modules`. MLX trains the last layers, whose numbers follow from the modules."""
    alpha = settings.scale * settings.rank
    layers = sorted({int(found[1]) for module in modules if (found := _LAYER.search(module))})
    is_layered = all(_LAYER.search(module) for module in modules)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": settings.model or None,
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "use_dora": settings.uses_dora,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}) if is_layered else modules,
        "layers_to_transform": layers if is_layered else None,
        "bias": "none",
        "inference_mode": True,
    }
