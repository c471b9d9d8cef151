"""The files of a checkpoint: shards, an index, what lacks, what is there twice, and tensors of other programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import make_model
from families import VARIANTS, make_family
from safetensors.torch import load_file, save_file

from inference.model.architecture import read_architecture
from inference.model.checkpoint import WeightsError
from inference.model.checkpoints import open_checkpoint
from inference.model.tensor_names import check_tensors, needed
from inference.model.weights import load_weights

INDEX = "model.safetensors.index.json"
NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"


def load(directory: Path) -> None:
    load_weights(directory, read_architecture(directory / "config.json"), torch.float32)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A model in three files with an index."""
    directory = make_model(tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for number in range(3):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[number::3]}
        save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def write_map(directory: Path, change: Callable[[dict[str, str]], object]) -> None:
    told = json.loads((directory / INDEX).read_text())
    (directory / INDEX).write_text(json.dumps(told | {"weight_map": change(told["weight_map"])}))


def test_shards_are_read_with_an_index_and_without(shards: Path) -> None:
    load(shards)
    (shards / INDEX).unlink()
    load(shards)


def test_one_file_counts_before_an_index_as_in_transformers(shards: Path) -> None:
    whole = {}
    for path in shards.glob("*.safetensors"):
        whole |= load_file(path)
    save_file(whole | {NORM: whole[NORM] + 1}, shards / "model.safetensors")
    found = open_checkpoint(shards, read_architecture(shards / "config.json")).read(NORM, (64,))
    assert torch.equal(found, whole[NORM] + 1)


def test_a_shard_that_lacks_is_named_with_an_index_and_without(shards: Path) -> None:
    (shards / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"lacks model-00002-of-00003\.safetensors, which its index names"):
        load(shards)
    (shards / INDEX).unlink()
    with pytest.raises(
        WeightsError, match=r"lacks model-00002-of-00003\.safetensors, of which the names of the others"
    ):
        load(shards)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda files: files | {"model.odd": "model-00001-of-00003.safetensors"}, "has no tensor 'model.odd', which"),
        (lambda files: files | {"a": "../model.safetensors"}, "names the file '../model.safetensors'; its files lie"),
        (lambda files: files | {"a": 3}, "has no weight_map of tensors and their files"),
        (lambda files: list(files), "has no weight_map of tensors and their files"),
        (lambda files: {}, "has no weight_map of tensors and their files"),
        (lambda files: {name: file for name, file in files.items() if name != UP}, f"has no tensor '{UP}'"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(
    shards: Path, change: Callable[[dict[str, str]], object], sentence: str
) -> None:
    write_map(shards, change)
    with pytest.raises(WeightsError) as caught:
        load(shards)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"weight_map": null}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(shards: Path, text: str) -> None:
    (shards / INDEX).write_text(text)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        load(shards)


def test_a_tensor_in_two_files_is_refused(shards: Path) -> None:
    (shards / INDEX).unlink()
    held = next(path for path in shards.glob("*.safetensors") if NORM in load_file(path))
    save_file({NORM: torch.ones(64)}, shards / "other.safetensors")
    with pytest.raises(WeightsError, match=rf"'model\.norm\.weight' is there twice: .*{held.name} and .*other"):
        load(shards)


def test_a_tensor_that_is_there_under_two_spellings_is_refused(tmp_path: Path) -> None:
    directory = make_model(tmp_path)
    tensors = load_file(directory / "model.safetensors")
    save_file(tensors | {"language_model.model.norm.weight": torch.ones(64)}, directory / "model.safetensors")
    with pytest.raises(WeightsError, match=r"'model\.norm\.weight' is there twice: as .*'language_model\.model\.norm"):
        load(directory)


def test_a_pickle_is_refused_by_its_name_with_what_to_do(tmp_path: Path) -> None:
    directory = make_model(tmp_path)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle, .*: load the model with transformers"):
        load(directory)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    path = make_model(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError, match=r"is not a readable safetensors file: .*; fetch it again"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_may_be_in_any_type_of_numbers_in_full(tmp_path: Path, dtype: torch.dtype) -> None:
    path = make_model(tmp_path) / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", [NORM, UP])
def test_a_tensor_of_another_type_is_refused(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    path = make_model(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name].to(dtype)}, path)
    type_ = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"'{name}' of .* is of type {type_}; read here are bfloat16 or float16"):
        load(tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_of_every_family_has_the_tensors_that_it_needs_and_no_other(
    tmp_path: Path, variant: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_family(tmp_path, variant)
    architecture = read_architecture(directory / "config.json")
    checkpoint = open_checkpoint(directory, architecture)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_tensors(checkpoint, architecture)
    assert not caplog.text
    beyond = set(checkpoint) - needed(architecture)
    assert all(name.endswith("norm.bias") for name in beyond)  # which a LayerNorm may have


def test_tensors_that_nothing_reads_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_model(tmp_path) / "model.safetensors"
    beside = {
        "model.layers.0.self_attn.q_proj.bias": torch.ones(64),
        "model.layers.3.mlp.up_proj.weight": torch.ones(96, 64),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    }
    save_file(load_file(path) | beside, path)
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert "has 2 tensors that config.json gives no place, which are left out as transformers does" in caplog.text
    assert "'model.layers.0.self_attn.q_proj.bias', 'model.layers.3.mlp.up_proj.weight'" in caplog.text


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("transformer.h.0.mixer.Wqkv.weight", "take microsoft/phi-2 or phi-1_5 as transformers has them"),
        ("transformer.encoder.layers.0.self_attention.query_key_value.weight", "the copy whose name ends in -hf"),
        ("transformer.h.0.attn.c_attn.weight", "Qwen2 and later work"),
        ("model.layers.0.self_attn.W_pack.weight", "Baichuan's own code"),
        ("model.layers.0.attention.wqkv.weight", "InternLM2's own code"),
        ("layers.0.attention.wq.weight", "take the copy in the form of Hugging Face"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "an adapter of PEFT and no base"),
        ("backbone.first", "fetch the model again"),
    ],
)
def test_a_checkpoint_of_other_code_is_told_by_its_names(tmp_path: Path, name: str, instead: str) -> None:
    directory = make_model(tmp_path)
    save_file({name: torch.ones(2, 2)}, directory / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        load(directory)
    assert "has no tensor" in str(caught.value)
    assert "more that config.json asks for" in str(caught.value)
    assert instead in str(caught.value)
