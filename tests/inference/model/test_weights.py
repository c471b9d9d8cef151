"""Checkpoints: one file or several, in any type, and what is wrong with the broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import load_decoder, make_model
from passes import Chunk, Passes
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from inference.model.architecture import ArchitectureError, parse_architecture, read_architecture
from inference.model.checkpoint import WeightsError
from inference.model.linear import Int4Linear, Int8Linear
from inference.model.quantization import linear_maker
from inference.model.weights import load_weights
from tests.inference.families import LONG


def logits(directory: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    passes = Passes(load_decoder(directory, dtype))
    return passes.run(Chunk(passes.sequence(), [5, 6, 7]))[0]


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A model directory to damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def load(directory: Path, **options: Any) -> None:
    load_weights(directory, read_architecture(directory / "config.json"), torch.float32, **options)


def test_a_sharded_checkpoint_gives_the_same_logits(tiny_model: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert torch.equal(logits(tmp_path), logits(tiny_model))


def test_weights_are_read_in_the_type_that_is_asked_for(tiny_model: Path) -> None:
    assert load_decoder(tiny_model, torch.bfloat16).weights.dtype == torch.bfloat16
    torch.testing.assert_close(logits(tiny_model, torch.bfloat16), logits(tiny_model), atol=0.2, rtol=0)


def test_tied_embeddings_are_one_tensor(tmp_path: Path) -> None:
    weights = load_decoder(make_model(tmp_path, tie_word_embeddings=True)).weights
    assert weights.head.weight is weights.embedding  # type: ignore[attr-defined]


def test_a_missing_tensor_is_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no tensor 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        load(copy)


def test_a_misshapen_tensor_is_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {"model.norm.weight": torch.ones(63)}, copy / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"'model\.norm\.weight' of .* has shape \(63,\); config\.json asks for \(64,\)"
    ):
        load(copy)


def test_a_missing_shard_is_named(tiny_model: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path, max_shard_size="60KB")
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    first.unlink()
    with pytest.raises(WeightsError, match=f"lacks {first.name}"):
        load(tmp_path)


def test_a_directory_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"holds no \.safetensors file"):
        load(copy)


def test_a_file_cut_short_is_refused(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load(copy)


def test_nf4_is_refused_on_a_cpu(copy: Path) -> None:
    with pytest.raises(WeightsError, match="QUANTIZATION=nf4 needs a GPU"):
        load(copy, quantization="nf4")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "'GPT2LMHeadModel' is not supported; supported are LlamaForCausalLM"),
        ({"architectures": None}, "architectures is null; it lists the name of one"),
        ({"architectures": []}, "architectures is []; it lists the name of one"),
        ({"architectures": 7}, "architectures is 7; it lists the name of one"),
        (
            {"architectures": ["ChatGLMModel"]},
            "came with a program of its own, which is not run; take the copy whose name",
        ),
        (
            {"architectures": ["MixFormerSequentialForCausalLM"]},
            "take microsoft/phi-2 or phi-1_5 as transformers has them",
        ),
        ({"architectures": ["QWenLMHeadModel"]}, "take Qwen2 or later"),
        ({"hidden_size": None}, "lacks a whole number for hidden_size"),
        (
            {"architectures": ["MixtralForCausalLM"]},
            "it is a Mixture-of-Experts, and no decoder here routes tokens to exp",
        ),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "of its kin a dense one works, such as Mistral-7B, Qwen3-8B"),
        ({"architectures": ["Qwen3NextForCausalLM"]}, "layers of linear attention or a state space"),
        ({"architectures": ["MambaForCausalLM"]}, "layers of linear attention or a state space"),
        ({"hidden_act": "relu2"}, "'relu2' is not supported; supported are silu"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "needs lists of factors for short_factor, long_factor"),
        ({"rope_parameters": {"rope_type": "ntk"}}, "'ntk' is not supported; supported are default"),
        ({"rope_parameters": {"rope_type": "linear"}}, "needs a factor"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 key heads evenly"),
        ({"head_dim": 15}, "15 of the 15 numbers of a head turn; they turn in pairs"),
        ({"rope_parameters": 7}, "rope_parameters is 7; it is an object, or null"),
        (
            {"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0]},
            "no_rope_layers names 2 layers; there are 3",
        ),
        (
            {"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True, "layer_types": ["full_attention"]},
            "layer_types names 1 layers; there are 3",
        ),
        (
            {"architectures": ["MinistralForCausalLM"], "layer_types": ["chunked_attention"] * 3},
            "layers of the kind 'chunked_attention' are not supported",
        ),
        (
            {"architectures": ["Phi3ForCausalLM"], "rope_parameters": {**LONG, "short_factor": [1.0]}},
            "the rotary scaling's short_factor has 1 factors; 6 pairs turn",
        ),
        (
            {"architectures": ["GemmaForCausalLM"], "use_bidirectional_attention": True},
            "such a model embeds, and writes nothing",
        ),
    ],
)
def test_a_model_that_is_not_computed_here_is_refused(tiny_model: Path, change: dict[str, Any], sentence: str) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    with pytest.raises(ArchitectureError) as caught:
        parse_architecture(config | change)
    assert sentence in str(caught.value)


def test_older_configs_spell_rope_otherwise(tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    del config["rope_parameters"]
    older = config | {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    rope = parse_architecture(older).rope
    assert (rope.theta, rope.kind, rope.scaling) == (500.0, "linear", {"factor": 2.0})


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match=r"config\.json is missing"):
        read_architecture(tmp_path / "config.json")


@pytest.mark.parametrize(("quantization", "kind"), [("int8", Int8Linear), ("int4", Int4Linear)])
def test_8_and_4_bits_are_to_be_had_on_either_device(quantization: str, kind: type) -> None:
    assert {linear_maker(quantization, torch.device(device)) for device in ("cpu", "cuda")} == {kind}
