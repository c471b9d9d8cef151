"""Llama 1 to 3, and all that are built like it: Yi, TinyLlama, Vicuna, SmolLM and SmolLM2, DeepSeek-LLM, Falcon 3."""

from __future__ import annotations

from inference.model.families.family import BY_MODULE, Config, Family, activation, biased
from inference.model.other_code import BAICHUAN, INTERNLM2, QWEN_1
from inference.model.spec import DecoderSpec, Names


def describe(config: Config) -> DecoderSpec:
    return DecoderSpec(activation=activation(config), biased=biased(config, BY_MODULE))


LLAMA = Family(("LlamaForCausalLM",), describe, gguf="llama", names=Names(others=(INTERNLM2, BAICHUAN, QWEN_1)))
