"""What a config.json leaves out or says otherwise means what transformers takes it for, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import KINDS, NO_ENDS, VARIANTS, load_family
from passes import Chunk, Passes

from inference.model.spec import ArchitectureError
from tests.inference.checkpoints import TINY

IDS = list(range(3, 60))
NEEDED = {"architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
UNREAD = {"model_type", "transformers_version", "dtype", "initializer_range", "use_cache"}
"""What changes no logits of a model whose weights are given."""
ROPE = {"rope_theta": 500.0}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
WINDOWS = ["full_attention", "sliding_attention", "full_attention"]
OTHERWISE: dict[str, dict[str, Any]] = {
    "windows in a layer": {"layer_types": WINDOWS, "sliding_window": 20},
    "windows that are used": {"layer_types": WINDOWS, "sliding_window": 20, "use_sliding_window": True},
    "windows that are not": {"layer_types": WINDOWS, "sliding_window": 20, "use_sliding_window": False},
    "a window everywhere": {"sliding_window": 20},
    "no window": {"sliding_window": None},
    "layers that do not turn": {"no_rope_layers": [1, 1, 0]},
    "half of a head turns": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, **ROPE}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, **ROPE}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **ROPE}},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, **ROPE}},
    "llama3": {"rope_parameters": {"rope_type": "llama3", **LLAMA3, **ROPE}},
    "an older spelling": {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}, **ROPE},
    "one key head": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True, "use_qkv_bias": True},
    "normed heads": {"qk_layernorm": True},
    "beside": {"use_parallel_residual": True},
    "capped scores": {"attn_logit_softcapping": 0.5},
    "capped logits": {"final_logit_softcapping": 2.0},
    "GELU": {"hidden_activation": "gelu"},
    "scaled": {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "query_pre_attn_scalar": 7},
}


def config_of(kind: str) -> tuple[type[Any], dict[str, Any]]:
    """The class of a family's configs, and all that one of its config.json files says."""
    config_class = getattr(transformers, f"{KINDS[kind]}{'Text' if kind == 'gemma3' else ''}Config")
    variant = next(changes for name, changes in VARIANTS.values() if name == kind)
    told = json.loads(config_class(**{**TINY, **NO_ENDS, **variant}).to_json_string(use_diff=False))
    return config_class, told | {"architectures": [f"{KINDS[kind]}ForCausalLM"]}


def theirs(kind: str, config_class: type[Any], told: dict[str, Any], directory: Path) -> torch.Tensor | None:
    """The logits of a random model as transformers reads `told`, saved in `directory`; None where it refuses."""
    torch.manual_seed(7)
    try:
        config = config_class.from_dict(json.loads(json.dumps(told)))
        config._attn_implementation, config.initializer_range = "eager", 0.15
        model = getattr(transformers, f"{KINDS[kind]}ForCausalLM")(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter) if parameter.dim() == 1 else 0
        with torch.no_grad():
            logits: torch.Tensor = model(torch.tensor([IDS])).logits[0]
    except Exception:  # of whatever kind its checks, its layers or torch raise
        return None
    model.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(told))
    return logits


def ours(directory: Path) -> torch.Tensor | None:
    try:
        passes = Passes(load_family(directory))
    except ArchitectureError:
        return None
    return passes.run(Chunk(passes.sequence(), IDS))[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_config_that_both_read_means_the_same(tmp_path: Path, kind: str) -> None:
    config_class, whole = config_of(kind)
    asked = {f"without {key}": {key: None} for key in whole if key not in NEEDED | UNREAD}
    compared = 0
    for number, (what, changes) in enumerate({"as it is": {}, **asked, **OTHERWISE}.items()):
        left = {key for key in changes if changes[key] is None and what != "no window"}
        told = {key: value for key, value in (whole | changes).items() if key not in left}
        directory = tmp_path / str(number)
        wanted = theirs(kind, config_class, told, directory)
        found = None if wanted is None else ours(directory)
        if found is not None and wanted is not None:
            torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0, msg=lambda text, at=what: f"{at}: {text}")
            compared += 1
    assert compared > 20
