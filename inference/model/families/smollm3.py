"""SmolLM3: Llama in which every fourth layer does not turn."""

from __future__ import annotations

from inference.model.families.family import BY_MODULE, Config, Family, activation, biased, simplest, windows
from inference.model.spec import DecoderSpec


def describe(config: Config) -> DecoderSpec:
    layers = range(config["num_hidden_layers"])
    turning = config.get("no_rope_layers")  # which says 1 where a layer turns
    if turning is None:
        turning = [(layer + 1) % config["no_rope_layer_interval"] for layer in layers]
    has_window = config.get("use_sliding_window") and config.get("sliding_window") is not None
    told = windows(config) if config.get("layer_types") else tuple(not turns for turns in turning)
    return DecoderSpec(
        biased=biased(config, BY_MODULE),
        activation=activation(config),
        turning=simplest(tuple(map(bool, turning))),
        windowed=told if has_window else tuple(False for _ in layers),
    )


SMOLLM3 = Family(
    ("SmolLM3ForCausalLM",),
    describe,
    gguf="smollm3",
    defaults={
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
        "rope_theta": 2e6,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
    },
    nullable=frozenset({"num_key_value_heads"}),
    has_window=True,
)
