"""OLMo 2: norms behind attention and MLP alone, queries and keys normed whole."""

from __future__ import annotations

from inference.model.families.family import Config, Family, activation, biased
from inference.model.spec import TARGETS, DecoderSpec, HeadNorm, Names, Norm, NormPlace


def describe(config: Config) -> DecoderSpec:
    return DecoderSpec(
        norm=Norm.RMS_FLOAT32,
        norm_place=NormPlace.AFTER,
        head_norm=HeadNorm.WHOLE,
        biased=biased(config, {"attention_bias": TARGETS[:4]}),
        activation=activation(config),
    )


OLMO2 = Family(
    ("Olmo2ForCausalLM",),
    describe,
    gguf="olmo2",
    names=Names(attention_norm="post_attention_layernorm", mlp_norm="post_feedforward_layernorm"),
    defaults={"rms_norm_eps": 1e-5},
)
