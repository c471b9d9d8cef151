"""Mistral and Ministral: Llama with a window, in all layers or in some."""

from __future__ import annotations

from inference.model.families.family import Config, Family, activation, windows
from inference.model.spec import DecoderSpec


def describe(config: Config) -> DecoderSpec:
    return DecoderSpec(activation=activation(config))


def describe_ministral(config: Config) -> DecoderSpec:
    return DecoderSpec(activation=activation(config), windowed=windows(config))


_SHARED = {"num_key_value_heads": 8, "sliding_window": 4096}
MISTRAL = Family(("MistralForCausalLM",), describe, gguf="llama", defaults=_SHARED, has_window=True)
MINISTRAL = Family(("MinistralForCausalLM",), describe_ministral, gguf="llama", defaults=_SHARED, has_window=True)
