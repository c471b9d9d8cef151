"""Every family of bases on the native decoder, against transformers and PEFT, and its rows in any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterStore
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder, unsupported
from inference.decoders.native.library import open_library, units_of
from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from tests.inference.checkpoints import load_base, load_reference, make_adapter
from tests.inference.families import VARIANTS, make_family
from tests.inference.passes import Passes, answer
from tests.inference.rounding import check_rounding

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}"),
]

HERE = units_of(open_library(library_path())) if missing_feature() is None else []
ODD = "llama, GELU, heads of an odd width"
COMPUTED = [name for name in VARIANTS if name != ODD]
BLOCK_SIZE, CONTEXT, NUM_TOKENS = 32, 128, 9
TEXTS = [list(range(71)), list(range(60, 127))]
"""Longer than what LongRoPE calls short in one variant, by which transformers turns a whole text."""


def make_native(directory: Path, dtype: torch.dtype = torch.float32, unit: str = "auto") -> NativeDecoder:
    architecture = read_architecture(directory / "config.json").within(CONTEXT)
    assert unsupported(architecture, BLOCK_SIZE) is None
    weights = load_weights(directory, architecture, dtype)
    return NativeDecoder(architecture, weights, NativeBank(4), library_path(), BLOCK_SIZE, 1, unit)


def make_passes(decoder: NativeDecoder, dtype: torch.dtype = torch.float32) -> Passes:
    return Passes(decoder, block_size=BLOCK_SIZE, dtype=dtype)


@pytest.mark.cell("full", "C++")
@pytest.mark.parametrize("variant", COMPUTED)
def test_every_family_equals_transformers_on_every_unit(tmp_path: Path, variant: str) -> None:
    model = make_family(tmp_path, variant)
    told = load_reference(model)
    for unit in HERE:
        check_answers(make_native(model, unit=unit), [-1, -1], [told, told], 1e-4)


def check_answers(decoder: NativeDecoder, slots: list[int], models: list[Any], bound: float) -> None:
    """`decoder` answers `TEXTS`, each with the adapter in a slot, in one batch as the models do one by one."""
    logits, replies = answer(make_passes(decoder), TEXTS, slots, NUM_TOKENS)
    for told, text, reply, got in zip(models, TEXTS, replies, logits, strict=True):
        with torch.no_grad():
            expected = told(torch.tensor([text + reply[:-1]])).logits[0, len(text) - 1 :]
        torch.testing.assert_close(got, expected, atol=bound, rtol=0)
        assert reply == expected.argmax(-1).tolist()


@pytest.mark.cell("adapters", "C++")
@pytest.mark.slow
@pytest.mark.parametrize("variant", COMPUTED)
def test_an_adapter_on_all_linears_answers_beside_the_base_as_with_peft(tmp_path: Path, variant: str) -> None:
    model, store = make_family(tmp_path / "model", variant), tmp_path / "adapters"
    store.mkdir()
    digest = make_adapter(model, store, 0, 0.1, target_modules="all-linear")
    decoder = make_native(model)
    slot = LoraSlots(4, AdapterStore(store, load_base(model)).load, decoder.bank).acquire(digest)
    adapted = PeftModel.from_pretrained(load_reference(model), store / digest).eval()
    check_answers(decoder, [-1, slot or 0], [load_reference(model), adapted], 1e-3)


@pytest.mark.cell("bits", "C++")
@pytest.mark.slow
@pytest.mark.parametrize("variant", COMPUTED)
def test_a_row_of_every_family_is_bitwise_the_same_in_any_company_on_every_unit(tmp_path: Path, variant: str) -> None:
    model, store = make_family(tmp_path / "model", variant), tmp_path / "adapters"
    store.mkdir()
    digest = make_adapter(model, store, 0, 0.1, target_modules="all-linear")
    for unit in HERE:
        decoder = make_native(model, torch.bfloat16, unit)
        slot = LoraSlots(4, AdapterStore(store, load_base(model, torch.bfloat16)).load, decoder.bank).acquire(digest)
        together, _ = answer(make_passes(decoder, torch.bfloat16), TEXTS, [-1, slot or 0], 2)
        for text, number, row in zip(TEXTS, (-1, slot or 0), together, strict=True):
            alone, _ = answer(make_passes(decoder, torch.bfloat16), [text], [number], 2)
            assert torch.equal(row, alone[0]), unit


@pytest.mark.cell("bfloat16", "C++")
@pytest.mark.slow
@pytest.mark.parametrize("variant", COMPUTED)
def test_every_family_rounds_to_bfloat16_as_transformers_does_on_every_unit(tmp_path: Path, variant: str) -> None:
    model = make_family(tmp_path, variant)
    for unit in HERE:
        decoder = make_native(model, torch.bfloat16, unit)
        logits, replies = answer(make_passes(decoder, torch.bfloat16), TEXTS, [-1, -1], NUM_TOKENS)
        check_rounding(model, TEXTS, replies, logits)


def test_heads_of_a_width_that_vectors_do_not_divide_are_left_to_torch(tmp_path: Path) -> None:
    model = make_family(tmp_path, ODD, num_attention_heads=16, num_key_value_heads=1)
    architecture = read_architecture(model / "config.json")
    assert unsupported(architecture, BLOCK_SIZE) == "head_dim is 22 and no multiple of 16"
