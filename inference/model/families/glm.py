"""GLM-4, dense, as first published (Glm) and with norms behind attention and MLP too (Glm4): half of a head turns, its
pairs beside each other; gate and up are one linear."""

from __future__ import annotations

from dataclasses import replace

from inference.model.families.family import Config, Family, activation, biased, rotary_part
from inference.model.other_code import CHATGLM
from inference.model.spec import GATE_UP, QKV, DecoderSpec, Names, NormPlace


def describe(config: Config) -> DecoderSpec:
    return DecoderSpec(
        biased=biased(config, {"attention_bias": QKV}),
        activation=activation(config),
        rotary_part=rotary_part(config),
        is_interleaved=True,
    )


def describe_glm4(config: Config) -> DecoderSpec:
    return replace(describe(config), norm_place=NormPlace.BOTH)


_NAMES = Names(fused={"mlp.gate_up_proj": GATE_UP})
_DEFAULTS = {
    "attention_bias": True,
    "head_dim": 128,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-7,
    "max_position_embeddings": 131072,
}
GLM = Family(
    ("GlmForCausalLM",),
    describe,
    gguf="chatglm",
    names=replace(_NAMES, others=(CHATGLM,)),
    defaults=_DEFAULTS,
    turns_in_part=True,
)
GLM4 = Family(
    ("Glm4ForCausalLM",),
    describe_glm4,
    gguf="glm4",
    names=replace(_NAMES, attention_out_norm="post_self_attn_layernorm", mlp_out_norm="post_mlp_layernorm"),
    defaults=_DEFAULTS,
    turns_in_part=True,
)
