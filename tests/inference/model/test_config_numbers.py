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
    "cap": ("Gemma2ForCausalLM", {"attn_logit_softcapping": -50.0}, "a cap of scores or logits is below 0"),
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
