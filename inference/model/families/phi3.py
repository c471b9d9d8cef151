"""Phi-3, Phi-3.5 and Phi-4: Llama with fused projections; part of a head may turn, by LongRoPE."""

from __future__ import annotations

from inference.model.families.family import Config, Family, activation, rotary_part
from inference.model.spec import GATE_UP, QKV, DecoderSpec, Names


def describe(config: Config) -> DecoderSpec:
    return DecoderSpec(activation=activation(config), rotary_part=rotary_part(config))


PHI3 = Family(
    ("Phi3ForCausalLM",),
    describe,
    gguf="phi3",
    names=Names(
        fused={"self_attn.qkv_proj": QKV, "mlp.gate_up_proj": GATE_UP},
        default_targets=("qkv_proj",),
    ),
    defaults={"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    has_window=True,
    turns_in_part=True,
)
