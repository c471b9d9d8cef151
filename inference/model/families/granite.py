"""Granite 3, dense: Llama with multipliers of embeddings, scores, residuals and logits."""

from __future__ import annotations

from inference.model.families.family import BY_MODULE, Config, Family, activation, biased
from inference.model.spec import DecoderSpec


def describe(config: Config) -> DecoderSpec:
    return DecoderSpec(
        biased=biased(config, BY_MODULE),
        activation=activation(config),
        embedding_multiplier=float(config["embedding_multiplier"]),
        attention_scale=float(config["attention_multiplier"]),
        residual_multiplier=float(config["residual_multiplier"]),
        logit_multiplier=1 / float(config["logits_scaling"]),
    )


_MULTIPLIERS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
GRANITE = Family(("GraniteForCausalLM",), describe, gguf="granite", defaults=dict.fromkeys(_MULTIPLIERS, 1.0))
