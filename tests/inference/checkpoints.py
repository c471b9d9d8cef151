"""Random models and adapters written to disk, in the layouts that real ones have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from inference.adapters.file import Base
from inference.adapters.identity import adapter_digest
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.base_weights import BaseWeights
from inference.model.weights import load_weights

TINY: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "attn_implementation": "eager",
}
KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}


def make_model(directory: Path, kind: str = "llama", **overrides: Any) -> Path:
    """Save a random model of `kind` with the fields of `TINY` and `overrides`."""
    torch.manual_seed(7)
    config_class, model_class = KINDS[kind]
    model_class(config_class(**{**TINY, **overrides})).save_pretrained(directory)
    return directory


def load_reference(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The same model as transformers computes it."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def load_decoder(directory: Path, dtype: torch.dtype = torch.float32) -> TorchDecoder:
    """The same model as we compute it."""
    architecture = read_architecture(directory / "config.json")
    return TorchDecoder(architecture, load_weights(directory, architecture, dtype), LoraBank())


def load_base(directory: Path, dtype: torch.dtype = torch.float32) -> Base:
    """What adapters of the same model are read for."""
    architecture = read_architecture(directory / "config.json")
    weights = BaseWeights(directory, architecture, dtype)
    bits = weights.is_in_fewer_bits
    return Base(architecture, dtype, weights.read, weights.bias, weights.identity, is_in_fewer_bits=bits)


def make_adapter(model: Path, store: Path, seed: int = 0, size: float = 0.2, **options: Any) -> str:
    """Save a random PEFT adapter of `model` in `store` under its digest, which is returned.

    Magnitudes of DoRA begin at the norms of the base's weights and are drawn around them, trained biases around the
    base's.
    """
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **options})
    peft_model = get_peft_model(load_reference(model), config)
    for name, parameter in peft_model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 1 + size * torch.randn_like(parameter)
        elif "trainable_tokens_delta" in name:
            parameter.data += size * torch.randn_like(parameter)
        elif "lora_" in name:
            torch.nn.init.normal_(parameter, std=size)
        elif name.endswith(".bias") and parameter.requires_grad:
            parameter.data += size * torch.randn_like(parameter)
    staging = store / f"staging-{seed}"
    peft_model.save_pretrained(staging)
    return publish(staging, store)


def publish(staging: Path, store: Path) -> str:
    """Move the adapter in `staging` to the place that its digest names."""
    config = json.loads((staging / "adapter_config.json").read_text())
    digest = adapter_digest(config, staging / "adapter_model.safetensors")
    staging.rename(store / digest)
    return digest
