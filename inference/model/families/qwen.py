"""Qwen 2, 2.5 and 3, dense: biases on queries, keys and values, later a norm by head; a window in the later layers."""

from __future__ import annotations

from dataclasses import replace

from inference.model.families.family import Config, Family, activation, biased, windows
from inference.model.other_code import QWEN_1
from inference.model.spec import QKV, TARGETS, DecoderSpec, HeadNorm, Names


def describe_qwen2(config: Config) -> DecoderSpec:
    return DecoderSpec(activation=activation(config), biased=frozenset(QKV), windowed=_windows(config))


def describe_qwen3(config: Config) -> DecoderSpec:
    return DecoderSpec(
        activation=activation(config),
        biased=biased(config, {"attention_bias": TARGETS[:4]}),
        head_norm=HeadNorm.BY_HEAD,
        windowed=_windows(config),
    )


def _windows(config: Config) -> tuple[bool, ...]:
    """Without `use_sliding_window` no layer has one, whatever sliding_window says."""
    layers = range(config["num_hidden_layers"])
    if not config.get("use_sliding_window") or config.get("sliding_window") is None:
        return tuple(False for _ in layers)
    return windows(config) if config.get("layer_types") else tuple(at >= config["max_window_layers"] for at in layers)


_SHARED = {
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "sliding_window": 4096,
    "num_key_value_heads": 32,
}
QWEN2 = Family(
    ("Qwen2ForCausalLM",),
    describe_qwen2,
    gguf="qwen2",
    names=Names(others=(QWEN_1,)),
    defaults=_SHARED,
    has_window=True,
    nullable=frozenset({"sliding_window", "num_key_value_heads"}),
)
QWEN3 = replace(
    QWEN2,
    architectures=("Qwen3ForCausalLM",),
    describe=describe_qwen3,
    gguf="qwen3",
    names=Names(),
    defaults={**_SHARED, "head_dim": 128},
)
