"""Tiny random models of every family, with every switch of its config one way and the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from tests.inference.checkpoints import TINY

NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
KINDS = {
    "llama": "Llama",
    "mistral": "Mistral",
    "ministral": "Ministral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "smollm3": "SmolLM3",
    "granite": "Granite",
    "olmo2": "Olmo2",
    "phi": "Phi",
    "phi3": "Phi3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3",
    "stablelm": "StableLm",
    "glm": "Glm",
    "glm4": "Glm4",
}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 20}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "rope_theta": 500.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.8, 2.0],
    "long_factor": [1.0, 2.0, 3.0, 5.0, 8.0, 13.0],
}
QUARTER = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_parameters": LLAMA3}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama, GELU, heads of an odd width": ("llama", {"hidden_act": "gelu", "head_dim": 22, "num_key_value_heads": 1}),
    "mistral": ("mistral", {"sliding_window": 20, "head_dim": 32}),
    "ministral": ("ministral", {"head_dim": 32, **MIXED}),
    "ministral, everywhere": ("ministral", {"head_dim": 16, "sliding_window": 20}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, window": ("qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3, biases, window": ("qwen3", {"head_dim": 16, "attention_bias": True, "use_sliding_window": True, **MIXED}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1], "tie_word_embeddings": True}),
    "smollm3, biases, window": (
        "smollm3",
        {
            **MIXED,
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "attention_bias": True,
            "mlp_bias": True,
            "layer_types": None,
        },
    ),
    "granite": (
        "granite",
        {"embedding_multiplier": 12.0, "attention_multiplier": 0.3, "residual_multiplier": 0.22, "logits_scaling": 8.0},
    ),
    "granite, biases, tied": ("granite", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", {}),
    "olmo2, biases, one key head": ("olmo2", {"attention_bias": True, "num_key_value_heads": 1, "rms_norm_eps": 1e-6}),
    "phi": ("phi", {"num_key_value_heads": 4}),
    "phi, normed heads, grouped, GELU": ("phi", {**QUARTER, "qk_layernorm": True, "hidden_act": "gelu"}),
    "phi3": ("phi3", {"tie_word_embeddings": True, "sliding_window": 20}),
    "phi3, short context": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 128}),
    "phi3, long context": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}),
    "gemma": ("gemma", {"head_dim": 32}),
    "gemma, biases, untied": ("gemma", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": False}),
    "gemma2": ("gemma2", {"head_dim": 32, "sliding_window": 20, "query_pre_attn_scalar": 40}),
    "gemma2, low caps": (
        "gemma2",
        {**MIXED, "head_dim": 16, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0},
    ),
    "gemma2, no caps": (
        "gemma2",
        {"head_dim": 16, "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma3": ("gemma3", {"head_dim": 32, **MIXED}),
    "gemma3, stretched": (
        "gemma3",
        {
            **MIXED,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "stablelm": ("stablelm", {"use_qkv_bias": True}),
    "stablelm, parallel, normed heads": (
        "stablelm",
        {"use_parallel_residual": True, "qk_layernorm": True, "tie_word_embeddings": True},
    ),
    "glm": ("glm", {"head_dim": 32}),
    "glm, no biases, tied": ("glm", {"head_dim": 16, "attention_bias": False, "tie_word_embeddings": True}),
    "glm4": ("glm4", {"head_dim": 32}),
    "glm4, no biases": ("glm4", {"head_dim": 16, "attention_bias": False}),
}


EACH = (
    *("llama, biases", "mistral", "ministral", "qwen2", "qwen3", "smollm3, biases, window", "granite", "olmo2", "phi"),
    *("phi3, short context", "gemma, biases, untied", "gemma2, low caps", "gemma3", "stablelm", "glm", "glm4"),
)
"""A variant of each family whose linears are named otherwise, or have another arithmetic around them."""


def make_family(directory: Path, variant: str, **more: Any) -> Path:
    """Save the random model `variant`. Its norms and biases are drawn too, which transformers would set to 1 and 0."""
    kind, overrides = VARIANTS[variant]
    config_class = getattr(transformers, f"{KINDS[kind]}{'Text' if kind == 'gemma3' else ''}Config")
    torch.manual_seed(7)
    config = config_class(**{**TINY, **NO_ENDS, **overrides, **more})
    model = getattr(transformers, f"{KINDS[kind]}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return directory


def load_family(directory: Path, dtype: torch.dtype = torch.float32, context: int = 128) -> TorchDecoder:
    """The model as it is served with a context of so many tokens."""
    architecture = read_architecture(directory / "config.json").within(context)
    return TorchDecoder(architecture, load_weights(directory, architecture, dtype), LoraBank())
