"""Models of transformers as GGUF files, with the names that the package gguf has for their tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf_files import add_fields, add_tokenizer
from safetensors.torch import load_file

ARCHES = {"phi": "phi2"}
INTERLEAVED = ("llama", "granite", "smollm3")


def export_gguf(directory: Path, path: Path, family: str, kind: str = "F32") -> None:
    """Write the model in `directory`, of a family as its model_type names it, with its matrices in `kind`."""
    config = json.loads((directory / "config.json").read_text())
    family = ARCHES.get(family, family)
    writer = GGUFWriter(path, family)
    add_fields(writer, {f"{family}.{key}": value for key, value in _fields(config, family).items()})
    add_tokenizer(writer, config["vocab_size"])
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, tensor in load_file(directory / "model.safetensors").items():
        values = _as_ggml(name, tensor.float(), family, config).numpy()
        type_ = GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        raw = gguf.quantize(np.ascontiguousarray(values), type_)
        raw = raw.view(np.uint8) if values.ndim == 2 else raw
        shape = raw.shape if values.ndim == 2 else None
        told = {"raw_shape": shape, "raw_dtype": type_} if values.ndim == 2 else {}
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), raw, **told)
    for name, factors in _factors(config).items():
        writer.add_tensor(name, np.array(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _as_ggml(name: str, tensor: torch.Tensor, family: str, config: dict[str, Any]) -> torch.Tensor:
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    target = name.split(".")[-2]
    if family not in INTERLEAVED or target not in heads:
        return tensor
    halves = tensor.reshape(heads[target], 2, tensor.shape[0] // heads[target] // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _fields(config: dict[str, Any], family: str) -> dict[str, Any]:
    """The keys that ggml-org's converter writes."""
    heads = config["num_attention_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    part = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    eps = "rms_norm_eps" if "rms_norm_eps" in config else "layer_norm_eps"
    fields = {
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        f"attention.layer_norm_{'rms_' if eps == 'rms_norm_eps' else ''}epsilon": float(config[eps]),
        "attention.key_length": dim,
        "rope.dimension_count": int(dim * part),
        "rope.freq_base": float(rope.get("rope_theta", 10000.0)),
    }
    fields |= {theirs: float(config[ours]) for ours, theirs in _SCALES.items() if config.get(ours)}
    if family in ("gemma2", "gemma3", "phi3") and config.get("sliding_window"):
        fields["attention.sliding_window"] = config["sliding_window"]
    if rope.get("rope_type") in ("linear", "yarn"):
        fields |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if "original_max_position_embeddings" in rope:
        fields["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if family == "phi3":
        fields["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
    return fields


_SCALES = {
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}


def _factors(config: dict[str, Any]) -> dict[str, list[float]]:
    rope = config.get("rope_parameters") or {}
    kinds = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
    return {theirs: rope[ours] for ours, theirs in kinds.items() if ours in rope}
