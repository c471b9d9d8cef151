"""Models of families beyond Llama in the sizes in which they were published, two layers of each, without memory."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from inference.model.architecture import Architecture
from inference.model.linear import Int4Linear, Int8Linear, PlainLinear
from inference.model.spec import GATE_UP, QKV, HeadNorm, Norm
from inference.model.weights import DecoderWeights, LayerWeights

PUBLISHED: dict[str, dict[str, Any]] = {
    "gemma-2-9b": {
        "architectures": ["Gemma2ForCausalLM"],
        "vocab_size": 256000,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
    },
    "phi-2": {
        "architectures": ["PhiForCausalLM"],
        "vocab_size": 51200,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "partial_rotary_factor": 0.4,
    },
    "OLMo-2-7B": {
        "architectures": ["Olmo2ForCausalLM"],
        "vocab_size": 100352,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
    },
    "glm-4-9b": {
        "architectures": ["GlmForCausalLM"],
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "attention_bias": True,
    },
    "stablelm-2-12b": {
        "architectures": ["StableLmForCausalLM"],
        "vocab_size": 100352,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "qk_layernorm": True,
        "use_parallel_residual": True,
    },
}
"""Each has what no other has: caps and heads of 256 numbers; a plain MLP beside attention with biases everywhere;
queries normed whole; rotary pairs beside each other and 16 heads that share a key head; heads of 160 numbers that are
centred."""


Grouped = TypeVar("Grouped", Int8Linear, Int4Linear)


def meta_linear(kind: type[Grouped], architecture: Architecture) -> Grouped:
    """A linear to queries, keys and values whose weights are in groups."""
    shapes = [architecture.target_shape(target) for target in QKV]
    return kind(torch.empty(sum(width for _, width in shapes), shapes[0][0], device="meta"))


def meta_weights(architecture: Architecture) -> DecoderWeights:
    """The parameters of `architecture`, of which there is the shape alone."""

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def linear(*targets: str) -> PlainLinear:
        shapes = [architecture.target_shape(target) for target in targets]
        return PlainLinear(empty(sum(width for _, width in shapes), shapes[0][0]))

    def bias(*targets: str) -> Tensor | None:
        width = sum(architecture.target_shape(target)[1] for target in targets)
        return empty(width) if spec.biased.intersection(targets) else None

    def norm(*shape: int) -> Tensor:
        parts = (2,) if spec.norm is Norm.LAYER else ()
        return empty(*parts, *shape, dtype=torch.float32 if spec.norm is Norm.RMS_FLOAT32 else torch.bfloat16)

    def head_norm(heads: int) -> Tensor | None:
        if spec.head_norm is HeadNorm.NONE:
            return None
        if spec.head_norm is HeadNorm.WHOLE:
            return norm(heads * architecture.head_dim)
        return norm(1 if spec.head_norm is HeadNorm.BY_HEAD else heads, architecture.head_dim)

    spec, hidden = architecture.spec, architecture.hidden_size
    gate_up = GATE_UP if spec.is_gated else GATE_UP[1:]
    behind = norm(hidden) if architecture.names.attention_out_norm else None
    layer = LayerWeights(
        attention_norm=norm(hidden),
        qkv=linear(*QKV),
        o=linear("o_proj"),
        mlp_norm=norm(hidden),
        gate_up=linear(*gate_up),
        down=linear("down_proj"),
        attention_out_norm=behind,
        mlp_out_norm=behind,
        q_norm=head_norm(architecture.num_heads),
        k_norm=head_norm(architecture.num_kv_heads),
        qkv_bias=bias(*QKV),
        o_bias=bias("o_proj"),
        gate_up_bias=bias(*gate_up),
        down_bias=bias("down_proj"),
    )
    table = empty(architecture.vocab_size, hidden)
    layers = (layer,) * architecture.num_layers
    return DecoderWeights(table, layers, norm(hidden), PlainLinear(table), bias("lm_head"))
