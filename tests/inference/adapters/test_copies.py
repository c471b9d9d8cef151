"""Copies of the base's own tables, which PEFT saves beside a LoRA on them, where the base is or was in fewer bits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.adapters.examination import Examination, examine_files
from inference.adapters.file import AdapterRefused, HostAdapter
from inference.adapters.store import AdapterStore
from inference.model.architecture import read_architecture
from inference.model.gguf.config import config_of
from inference.model.gguf.file import GgufFile
from tests.inference.checkpoints import load_base, load_reference, make_adapter, make_model, publish
from tests.inference.gguf_exports import export_gguf

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TABLES = ["embed_tokens", "lm_head"]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return make_model(tmp_path / "full", vocab_size=320)


def rounded(full: Path, kind: str) -> Path:
    """The same model in a GGUF file, its matrices in `kind`."""
    directory = full.with_name("rounded")
    directory.mkdir()
    export_gguf(full, directory / "model.gguf", "llama", kind)
    (directory / "config.json").write_text(json.dumps(config_of(GgufFile(directory / "model.gguf"))))
    return directory


def loaded(model: Path, store: Path, digest: str, dtype: torch.dtype = torch.float32) -> HostAdapter:
    return AdapterStore(store, load_base(model, dtype)).load(digest)


def changed(store: Path, digest: str, tensors: dict[str, Tensor]) -> str:
    """The adapter with other tensors beside its own."""
    folder = store / digest
    save_file(load_file(folder / WEIGHTS) | tensors, folder / WEIGHTS)
    for file in folder.glob("mapped*"):
        file.unlink()
    return publish(folder, store)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16"])
def test_a_copy_in_full_is_the_bases_own_where_that_is_rounded(full: Path, store: Path, kind: str) -> None:
    digest = make_adapter(full, store, target_modules=["q_proj", *TABLES])
    assert "base_model.model.lm_head.base_layer.weight" in load_file(store / digest / WEIGHTS)
    model = rounded(full, kind)
    for dtype in (torch.float32, torch.bfloat16):
        assert list(loaded(model, store, digest, dtype).weights) == ["embed_tokens", "lm_head", "q_proj"]


def test_so_is_one_that_was_trained_in_half_precision(full: Path, store: Path) -> None:
    digest = make_adapter(full, store, target_modules=["q_proj", "lm_head"])
    table = load_reference(full).lm_head.weight.detach() * 2e-4
    own = load_file(full / "model.safetensors") | {"lm_head.weight": table.bfloat16()}
    save_file(own, full / "model.safetensors", {"format": "pt"})
    digest = changed(store, digest, {"base_model.model.lm_head.base_layer.weight": table.bfloat16().half()})
    assert list(loaded(full, store, digest, torch.bfloat16).weights) == ["lm_head", "q_proj"]


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_a_copy_of_another_models_table_is_refused_with_the_rows_that_differ(
    full: Path, store: Path, kind: str
) -> None:
    digest = make_adapter(full, store, target_modules=["q_proj", *TABLES])
    table = load_reference(full).lm_head.weight.detach().clone()
    table[:7] = torch.randn(7, 64) * table[:7].std()
    digest = changed(store, digest, {"base_model.model.lm_head.base_layer.weight": table})
    with pytest.raises(AdapterRefused, match=r"the table of lm_head is not the base's own: 7 of its rows differ"):
        loaded(rounded(full, kind), store, digest)


def test_a_whole_table_that_was_trained_cannot_be_told_from_a_rounded_one(full: Path, store: Path) -> None:
    digest = make_adapter(full, store, modules_to_save=["lm_head"])
    with pytest.raises(AdapterRefused) as caught:
        loaded(rounded(full, "Q4_0"), store, digest)
    assert caught.value.reasons == (
        "the table of lm_head is in fewer bits here, so that its rows that were trained cannot be told from those that "
        "were rounded; serve the base in full, or train rows by their tokens (trainable_token_indices) or a LoRA on it",
    )


def test_rows_that_were_trained_by_their_tokens_are_what_was_trained(full: Path, store: Path) -> None:
    ids = [3, 90, 17, 319]
    digest = make_adapter(full, store, trainable_token_indices=ids)
    (trained,) = [tensor for name, tensor in load_file(store / digest / WEIGHTS).items() if "token_adapter" in name]
    model = rounded(full, "Q4_0")
    pair = loaded(model, store, digest).weights["embed_tokens"]
    rows = load_base(model).weight("embed_tokens", 0)[ids] + pair.a[0, ids] @ pair.b[0]
    torch.testing.assert_close(rows, trained, atol=1e-6, rtol=0)


COPIES: dict[str, dict[str, Tensor]] = {
    "bitsandbytes in 4 bits": {
        "weight": torch.full((4192, 1), 255, dtype=torch.uint8),
        "weight.absmax": torch.zeros(131, dtype=torch.uint8),
        "weight.nested_absmax": torch.zeros(1),
        "weight.nested_quant_map": torch.zeros(256),
        "weight.quant_map": torch.zeros(16),
        "weight.quant_state.bitsandbytes__nf4": torch.zeros(168, dtype=torch.uint8),
    },
    "bitsandbytes in 8 bits": {
        "weight": torch.full((131, 64), -1, dtype=torch.int8),
        "SCB": torch.ones(131),
        "weight_format": torch.zeros((), dtype=torch.uint8),
    },
    "GPTQ": {
        "qweight": torch.zeros(8, 131, dtype=torch.int32),
        "qzeros": torch.zeros(1, 17, dtype=torch.int32),
        "scales": torch.ones(1, 131, dtype=torch.float16),
        "g_idx": torch.zeros(64, dtype=torch.int32),
    },
}
"""What PEFT 0.21 saved of a head that bitsandbytes had in 4 and 8 bits, and the names of GPTQ."""


def examined(model: Path, directory: Path) -> Examination:
    return examine_files(directory / CONFIG, directory / WEIGHTS, read_architecture(model / "config.json"), 64)


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_in_fewer_bits_is_left_out_and_told(tmp_path: Path, store: Path, kind: str) -> None:
    model = make_model(tmp_path / "model")
    digest = make_adapter(model, store, target_modules=["q_proj", "lm_head"])
    expected = loaded(model, store, digest).weights
    tensors = load_file(store / digest / WEIGHTS)
    for name in [name for name in tensors if "base_layer" in name]:
        del tensors[name]
    save_file(tensors, store / digest / WEIGHTS)
    digest = changed(
        store, digest, {f"base_model.model.lm_head.base_layer.{name}": part for name, part in COPIES[kind].items()}
    )
    found = examined(model, store / digest)
    assert found.reasons == []
    assert found.remarks == (
        "A copy of the base's own table in fewer bits lies beside, as PEFT saves it, and is not compared: lm_head.",
    )
    weights = loaded(model, store, digest).weights
    assert weights.keys() == expected.keys()
    assert all(torch.equal(pair.b, weights[target].b) for target, pair in expected.items())


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("lm_head.lora_A.weight", torch.zeros(8, 64, dtype=torch.int8), 'type "I8"; allowed are F64, F32, F16, BF16'),
        ("model.layers.0.self_attn.q_proj.base_layer.weight", torch.zeros(8, dtype=torch.uint8), 'type "U8"'),
        ("model.layers.0.self_attn.q_proj.base_layer.SCB", torch.zeros(8), "Not a LoRA matrix"),
    ],
)
def test_numbers_that_are_no_copy_of_a_table_are_refused(
    tmp_path: Path, store: Path, name: str, tensor: Tensor, sentence: str
) -> None:
    model = make_model(tmp_path / "model")
    folder = store / make_adapter(model, store, target_modules=["q_proj", "lm_head"])
    tensors: dict[str, Any] = load_file(folder / WEIGHTS)
    save_file(tensors | {f"base_model.model.{name}": tensor}, folder / WEIGHTS)
    assert re.search(sentence.replace('"', "."), "; ".join(examined(model, folder).reasons))
