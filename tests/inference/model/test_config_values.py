"""Numbers of a config.json of which no model can be made: each is refused by its name, before anything is built."""

from __future__ import annotations

from typing import Any

import pytest

from inference.model.architecture import parse_architecture
from inference.model.spec import ArchitectureError

SOUND: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no layers": ("LlamaForCausalLM", {"num_hidden_layers": 0}, "num_hidden_layers is 0; it is a whole number from 1"),
    "too many": ("LlamaForCausalLM", {"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000; it is"),
    "a half": ("LlamaForCausalLM", {"head_dim": 2.5}, "head_dim is 2.5; it is a whole number from 1 to 4,096"),
    "truth": ("LlamaForCausalLM", {"hidden_size": True}, "hidden_size is True; it is a whole number"),
    "null eps": ("LlamaForCausalLM", {"rms_norm_eps": None}, "rms_norm_eps is null; it is a number above 0"),
    "negative eps": ("PhiForCausalLM", {"layer_norm_eps": -1.0}, "layer_norm_eps is -1.0; it is a number above 0"),
    "no window": ("MistralForCausalLM", {"sliding_window": 0}, "sliding_window is 0; it is a whole number from 1"),
    "a text": ("MistralForCausalLM", {"sliding_window": "4"}, "sliding_window is '4'; it is a whole number"),
    "null length": ("LlamaForCausalLM", {"max_position_embeddings": None}, "max_position_embeddings is null; it is"),
    "theta": ("LlamaForCausalLM", {"rope_theta": -1.0}, "rope_theta is -1.0; it is a number above 0"),
    "llama3": ("LlamaForCausalLM", {"rope_scaling": LLAMA3}, "the rotary scaling's low_freq_factor is null; it is"),
    "beyond a head": ("GlmForCausalLM", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5; it is above 0"),
    "cap": (
        "Gemma2ForCausalLM",
        {"attn_logit_softcapping": -50.0},
        "attn_logit_softcapping is -50.0; it is a number above",
    ),
    "no cap": (
        "Gemma2ForCausalLM",
        {"final_logit_softcapping": 0.0},
        "final_logit_softcapping is 0.0; it is a number above",
    ),
    "scores": (
        "Gemma3ForCausalLM",
        {"query_pre_attn_scalar": -3},
        "query_pre_attn_scalar is -3; it is a number above 0",
    ),
    "a cap that nobody computes": (
        "Gemma3ForCausalLM",
        {"attn_logit_softcapping": 30.0},
        "no program caps the scores of",
    ),
    "flat": (
        "Gemma3ForCausalLM",
        {"rope_parameters": {"rope_theta": 5.0}},
        "have an object for full_attention, one for sliding_attention",
    ),
    "multiplier": ("GraniteForCausalLM", {"logits_scaling": 0}, "logits_scaling is 0; it is a number above 0"),
    "null of a family's own": (
        "GraniteForCausalLM",
        {"attention_multiplier": None},
        "attention_multiplier is null; give its",
    ),
    "null heads": (
        "MistralForCausalLM",
        {"num_key_value_heads": None},
        "num_key_value_heads is null; give its value, or",
    ),
    "a truth in words": ("LlamaForCausalLM", {"tie_word_embeddings": "false"}, "is 'false'; it is true or false"),
    "a truth as a number": ("LlamaForCausalLM", {"attention_bias": 1}, "attention_bias is 1; it is true or false"),
    "no object": ("LlamaForCausalLM", {"rope_scaling": "linear"}, "rope_scaling is 'linear'; it is an object, or null"),
    "not even": ("LlamaForCausalLM", {"hidden_size": 66}, "hidden_size 66 is no multiple of 4 heads; give head_dim"),
    "in part": (
        "LlamaForCausalLM",
        {"partial_rotary_factor": 0.5},
        "is 0.5, and a LlamaForCausalLM turns all of a head",
    ),
    "in part, within": (
        "Qwen3ForCausalLM",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "is 0.5, and a Qwen3ForCausalLM turns all of a head",
    ),
    "a window of nobody": (
        "LlamaForCausalLM",
        {"sliding_window": 9},
        "is 9, and a LlamaForCausalLM has no window; say",
    ),
    "too few kinds": (
        "LlamaForCausalLM",
        {"layer_types": ["full_attention"]},
        "layer_types names 1 layers; there are 3",
    ),
    "no kinds": ("LlamaForCausalLM", {"layer_types": []}, "layer_types names 0 layers; there are 3"),
    "kinds in a word": ("MistralForCausalLM", {"layer_types": "full_attention"}, "it lists kinds of layers"),
    "windows in other layers": (
        "MistralForCausalLM",
        {"layer_types": ["full_attention"] * 3},
        "layer_types has sliding_attention in 0 layers, and by sliding_window, use_sliding_window and the architecture "
        "there is a window in 3; let them say the same",
    ),
    "windows that are not used": (
        "Qwen2ForCausalLM",
        {"layer_types": ["sliding_attention"] * 3, "use_sliding_window": False},
        "in 3 layers, and by sliding_window, use_sliding_window and the architecture there is a window in 0",
    ),
    "a window without a width": ("Gemma2ForCausalLM", {"sliding_window": None}, "sliding_window is null; say how wide"),
    "too few that turn": (
        "SmolLM3ForCausalLM",
        {"no_rope_layers": [1, 1]},
        "no_rope_layers names 2 layers; there are 3",
    ),
    "turning in words": (
        "SmolLM3ForCausalLM",
        {"no_rope_layers": ["a", 0, 1]},
        "no_rope_layers has 'a'; it lists 1 where",
    ),
    "no interval": ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0; it is a whole"),
    "half a layer": (
        "Qwen2ForCausalLM",
        {"max_window_layers": 2.5},
        "max_window_layers is 2.5; it is a whole number from 0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_number_that_makes_no_model_is_refused_by_its_name(name: str) -> None:
    architecture, changes, sentence = WRONG[name]
    parse_architecture({"architectures": [architecture], **SOUND})
    with pytest.raises(ArchitectureError) as refused:
        parse_architecture({"architectures": [architecture], **SOUND, **changes})
    assert sentence in str(refused.value)


@pytest.mark.parametrize("architecture", ["PhiForCausalLM", "StableLmForCausalLM"])
def test_what_a_layer_norm_adds_is_the_family_s_own_where_a_config_does_not_say(architecture: str) -> None:
    assert parse_architecture({"architectures": [architecture], **SOUND}).norm_eps == 1e-5
