"""StableLM 3B and 2: LayerNorm, part of a head turns; the 12B norms each head and runs its MLP beside attention."""

from __future__ import annotations

from inference.model.families.family import Config, Family, activation, biased, rotary_part
from inference.model.spec import QKV, DecoderSpec, HeadNorm, Names, Norm


def describe(config: Config) -> DecoderSpec:
    return DecoderSpec(
        norm=Norm.LAYER,
        head_norm=HeadNorm.EACH_HEAD if config.get("qk_layernorm") else HeadNorm.NONE,
        biased=biased(config, {"use_qkv_bias": QKV}),
        activation=activation(config),
        is_parallel=bool(config.get("use_parallel_residual")),
        rotary_part=rotary_part(config),
    )


STABLELM = Family(
    ("StableLmForCausalLM",),
    describe,
    gguf="stablelm",
    names=Names(q_norm="self_attn.q_layernorm", k_norm="self_attn.k_layernorm"),
    defaults={
        "partial_rotary_factor": 0.25,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "num_key_value_heads": 32,
    },
    eps="layer_norm_eps",
    turns_in_part=True,
)
