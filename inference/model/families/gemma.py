"""Gemma 1, 2 and 3 (text): norms of one plus their weight, GELU, multiplied embeddings. From the second on norms stand
behind attention and MLP too and scores may be capped; the third norms heads and turns by two rotary embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from inference.model.families.family import WINDOWED, Config, Family, activation, biased, windows
from inference.model.rope_config import parse_rope
from inference.model.spec import TARGETS, ArchitectureError, DecoderSpec, HeadNorm, Names, Norm, NormPlace, Rope

_TANH: Final = "gelu_pytorch_tanh"


def describe(config: Config) -> DecoderSpec:
    if config.get("use_bidirectional_attention"):
        raise ArchitectureError("use_bidirectional_attention is not supported: such a model embeds, and writes nothing")
    # The first ones were published with "gelu", by which they meant the other.
    named = _TANH if config.get("hidden_act") in (None, "gelu") else config["hidden_act"]
    return DecoderSpec(
        norm=Norm.RMS_FLOAT32,
        norm_offset=1.0,
        biased=biased(config, {"attention_bias": TARGETS[:4]}),
        activation=activation({"hidden_act": named}),
        embedding_multiplier=config["hidden_size"] ** 0.5,
    )


def describe_gemma2(config: Config) -> DecoderSpec:
    return replace(
        describe(config),
        activation=activation(config, "hidden_activation"),
        norm_place=NormPlace.BOTH,
        windowed=windows(config) if config.get("layer_types") else _every(2, config),
        score_cap=float(config.get("attn_logit_softcapping") or 0),
        logit_cap=float(config.get("final_logit_softcapping") or 0),
        attention_scale=config["query_pre_attn_scalar"] ** -0.5,
    )


def describe_gemma3(config: Config) -> DecoderSpec:
    _check_gemma3(config)
    told = config.get("layer_types") is not None
    return replace(
        describe_gemma2(config),
        head_norm=HeadNorm.BY_HEAD,
        windowed=windows(config) if told else _every(config.get("sliding_window_pattern") or 6, config),
        local_rope=_local_rope(config),
    )


def _check_gemma3(config: Config) -> None:
    """Transformers leaves out what is spelled otherwise, without a word. Raises `ArchitectureError`."""
    if config.get("attn_logit_softcapping") is not None:
        raise ArchitectureError("attn_logit_softcapping is set, and no program caps the scores of a Gemma 3; say null")
    rope, scaling = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    if not {"full_attention", WINDOWED}.issuperset(rope):
        raise ArchitectureError(
            f"the rope_parameters of a Gemma 3 have an object for full_attention, one for {WINDOWED}"
        )
    if "type" in scaling and "rope_type" not in scaling:
        raise ArchitectureError("the rope_scaling of a Gemma 3 says its kind as rope_type, and not as type")


def _every(step: int, config: Config) -> tuple[bool, ...]:
    """All but every `step`th layer."""
    return tuple(bool((layer + 1) % step) for layer in range(config["num_hidden_layers"]))


def _local_rope(config: Config) -> Rope:
    told: dict[str, Any] = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    return parse_rope({"rope_theta": config.get("rope_local_base_freq")}, told)


_SHARED: Final = {"head_dim": 256, "tie_word_embeddings": True, "max_position_embeddings": 8192, "vocab_size": 256000}
_CAPPED: Final = {**_SHARED, "hidden_activation": _TANH, "query_pre_attn_scalar": 256, "sliding_window": 4096}
_FOUR_NORMS: Final = Names(
    attention_out_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_out_norm="post_feedforward_layernorm",
)
GEMMA = Family(("GemmaForCausalLM",), describe, gguf="gemma", defaults={**_SHARED, "num_key_value_heads": 16})
GEMMA2 = Family(
    ("Gemma2ForCausalLM",),
    describe_gemma2,
    gguf="gemma2",
    names=_FOUR_NORMS,
    defaults={**_CAPPED, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0, "num_key_value_heads": 4},
    has_window=True,
)
GEMMA3 = Family(
    ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    describe_gemma3,
    gguf="gemma3",
    names=_FOUR_NORMS,
    defaults={
        **_CAPPED,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rope_theta": 1e6,
    },
    has_window=True,
)
