"""The rotary embedding of a model in a GGUF file, in the words of a config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from inference.model.gguf.file import GgufFile
from inference.model.gguf.header import GgufError
from inference.model.gguf.names import FACTORS, LONG_FACTORS

Rope = dict[str, Any]


class Fields(Protocol):
    """The fields of the file's own family."""

    file: GgufFile
    path: Path

    def __getitem__(self, key: str) -> Any: ...
    def get(self, key: str, default: Any = None) -> Any: ...
    @property
    def head_dim(self) -> int: ...


def rope_of(own: Fields) -> Rope:
    """Factors by frequency, as Llama 3 and Phi-3 have them, or a kind that fields name. Raises `GgufError`."""
    turned = own.get("rope.dimension_count", own.head_dim)
    rope = {"rope_theta": float(own.get("rope.freq_base", 10000.0))}
    if turned != own.head_dim:
        rope["partial_rotary_factor"] = turned / own.head_dim
    return rope | _scaling(own, turned)


def _scaling(own: Fields, turned: int) -> Rope:
    if FACTORS in own.file.tensors:
        factors = _factors(own, FACTORS, turned)
        return _long(factors, factors) | {
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": own["context_length"],
        }
    if all(name in own.file.tensors for name in LONG_FACTORS):
        told = _long(*(_factors(own, name, turned) for name in LONG_FACTORS))
        sharpness = own.get("rope.scaling.attn_factor")
        return told | ({"attention_factor": float(sharpness)} if sharpness else {})
    return _named(own)


def _long(short: list[float], long: list[float]) -> Rope:
    """The one kind of scaling that takes a factor for each frequency."""
    return {"rope_type": "longrope", "short_factor": short, "long_factor": long}


def _factors(own: Fields, name: str, turned: int) -> list[float]:
    tensor = own.file.tensors[name]
    if tensor.shape != (turned // 2,):
        raise GgufError(f"{name} of {own.path} has shape {tensor.shape} where {turned // 2} factors would be")
    return [float(value) for value in tensor.block.dequantize(own.file.raw(tensor, 0, 1))[0]]


def _named(own: Fields) -> Rope:
    kind = own.get("rope.scaling.type", "linear" if own.get("rope.scale_linear") else "none")
    factor = float(own.get("rope.scaling.factor") or own.get("rope.scale_linear") or 1.0)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(own, factor)
    raise GgufError(f"{own.path} scales its rotary embedding by {kind!r}; served are none, linear, yarn and {FACTORS}")


def _yarn(own: Fields, factor: float) -> Rope:
    keys = {
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    if own.get("rope.scaling.attn_factor", 1.0) != 1.0 or own.get("rope.scaling.yarn_log_multiplier"):
        raise GgufError(f"{own.path} sharpens its attention otherwise than YaRN does; use the model's safetensors")
    found = {ours: own.get(f"rope.scaling.{theirs}") for ours, theirs in keys.items()}
    return {"rope_type": "yarn", "factor": factor} | {key: value for key, value in found.items() if value}
