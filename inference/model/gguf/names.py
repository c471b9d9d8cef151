"""What GGUF calls the tensors that checkpoints of Hugging Face name otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from inference.model.architecture import Architecture
from inference.model.spec import EMBEDDING, GATE_UP, HEAD, QKV, HeadNorm, NormPlace

_TARGETS: Final = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_FUSED: Final = {QKV: "attn_qkv", GATE_UP: "ffn_up"}
_INTERLEAVED: Final = ("llama", "granite", "smollm3")
"""Families whose rows of queries and keys are in ggml's order; others are as in their checkpoints."""
FACTORS: Final = "rope_freqs.weight"
"""By what each frequency of the rotary embedding is divided."""
LONG_FACTORS: Final = ("rope_factors_short.weight", "rope_factors_long.weight")
"""The same for short and for long contexts."""


@dataclass(frozen=True)
class Place:
    """A tensor of a GGUF file, perhaps of `heads` heads whose rows are interleaved, or with `offset` added to it."""

    tensor: str
    heads: int = 0
    offset: float = 0.0


def places_in(architecture: Architecture, family: str) -> dict[str, Place]:
    """Where each tensor lies that checkpoints of this model may have, by its name there; `family` as GGUF has it."""
    modules = dict(_modules_on_top(architecture))
    for layer in range(architecture.num_layers):
        modules |= {f"model.layers.{layer}.{name}": place for name, place in _norms(architecture, layer)}
        modules |= dict(_linears(architecture, family, layer))
    return {
        f"{name}.{part}": Place(f"{place.tensor}.{part}", place.heads, place.offset)
        for name, place in modules.items()
        for part in ("weight", "bias")
    }


def _modules_on_top(architecture: Architecture) -> Iterator[tuple[str, Place]]:
    yield f"model.{EMBEDDING}", Place("token_embd")
    yield HEAD, Place("output")
    yield f"model.{architecture.names.last_norm}", Place("output_norm", offset=architecture.spec.norm_offset)


def _norms(architecture: Architecture, layer: int) -> Iterator[tuple[str, Place]]:
    spec, names = architecture.spec, architecture.names
    is_after = spec.norm_place is NormPlace.AFTER
    told = {names.attention_norm: "post_attention_norm" if is_after else "attn_norm"}
    if not spec.is_parallel:
        told[names.mlp_norm] = "post_ffw_norm" if is_after else "ffn_norm"
    if spec.norm_place is NormPlace.BOTH:
        told |= {names.attention_out_norm: "post_attention_norm", names.mlp_out_norm: "post_ffw_norm"}
    if spec.head_norm is not HeadNorm.NONE:
        told |= {names.q_norm: "attn_q_norm", names.k_norm: "attn_k_norm"}
    for name, tensor in told.items():
        yield name, Place(f"blk.{layer}.{tensor}", offset=spec.norm_offset)


def _linears(architecture: Architecture, family: str, layer: int) -> Iterator[tuple[str, Place]]:
    heads = {"q_proj": architecture.num_heads, "k_proj": architecture.num_kv_heads}
    heads = heads if family in _INTERLEAVED else {}
    for target in architecture.targets:
        fused = architecture.names.fused.get(architecture.names.fused_path(target))
        tensor = _FUSED[fused] if fused else _TARGETS[target]
        yield architecture.source(target, layer).module, Place(f"blk.{layer}.{tensor}", heads.get(target, 0))
