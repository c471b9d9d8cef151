"""Phi-1.5 and Phi-2: LayerNorm, attention beside a plain MLP, biases everywhere; part of a head turns."""

from __future__ import annotations

from inference.model.families.family import ALL_LINEARS, Config, Family, activation, rotary_part
from inference.model.other_code import PHI_1, PHI_2, PHI_FUSED
from inference.model.spec import DecoderSpec, HeadNorm, Names, Norm


def describe(config: Config) -> DecoderSpec:
    return DecoderSpec(
        norm=Norm.LAYER,
        head_norm=HeadNorm.BY_HEAD if config.get("qk_layernorm") else HeadNorm.NONE,
        biased=ALL_LINEARS - {"gate_proj"},
        activation=activation(config),
        is_gated=False,
        is_parallel=True,
        rotary_part=rotary_part(config),
    )


PHI = Family(
    ("PhiForCausalLM",),
    describe,
    gguf="phi2",
    names=Names(
        paths={"o_proj": "self_attn.dense", "up_proj": "mlp.fc1", "down_proj": "mlp.fc2"},
        q_norm="self_attn.q_layernorm",
        k_norm="self_attn.k_layernorm",
        last_norm="final_layernorm",
        default_targets=("q_proj", "v_proj", "fc1", "fc2"),
        others=(PHI_2, PHI_1, PHI_FUSED),
    ),
    defaults={"hidden_act": "gelu_new", "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5},
    eps="layer_norm_eps",
    turns_in_part=True,
)
