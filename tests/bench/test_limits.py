"""What a decoder must do is counted as torch counts it, and what a processor can do is measured or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from inference.decoders.native.library import UNITS
from inference.model.architecture import read_architecture
from tests.bench import peak
from tests.bench.operations import Operations
from tests.inference.checkpoints import load_reference, make_model

PROMPT, LENGTH = 5, 7


def counted_by_torch(model: Path, tokens: int) -> int:
    """Of one pass over `tokens`, the logits of all of them wanted. Torch multiplies with what is masked, too."""
    reference = load_reference(model)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        reference(torch.arange(tokens)[None])
    return counter.get_total_flops()


def test_products_head_and_attention_are_as_many_as_torch_counts(tmp_path: Path) -> None:
    counted = Operations(read_architecture(make_model(tmp_path) / "config.json"))
    for tokens in (1, 6):
        masked = tokens * tokens * counted.attention
        assert counted_by_torch(tmp_path, tokens) == tokens * (counted.products + counted.head) + masked


def test_an_answer_computes_each_token_but_the_last_once(tmp_path: Path) -> None:
    counted = Operations(read_architecture(make_model(tmp_path) / "config.json"))
    rows = range(1, PROMPT + LENGTH)
    one_by_one = sum(counted.products + seen * counted.attention for seen in rows) + LENGTH * counted.head
    assert counted.answer(PROMPT, LENGTH) == one_by_one


def test_an_adapter_costs_what_its_two_factors_do(tmp_path: Path) -> None:
    counted = Operations(read_architecture(make_model(tmp_path) / "config.json"))
    assert counted.adapters(8, ("q_proj",)) == 3 * 2 * 8 * (64 + 64)
    assert counted.adapters(8, ("q_proj", "v_proj")) == 3 * 2 * 8 * (64 + 64 + 64 + 32)


@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_of_the_native_decoder_has_an_instruction_for_each_type(unit: str) -> None:
    types = (("bfloat16", "none"), ("bfloat16", "int8"), ("bfloat16", "int4"), ("float32", "none"))
    known = {name for name in peak.INSTRUCTIONS[unit] if f"defined({name})" in peak.SOURCE.read_text()}
    assert {peak.instruction_of(unit, *kind) for kind in types} <= known


def test_a_unit_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(peak.NoPeak, match="by which instruction the unit abacus multiplies"):
        peak.instruction_of("abacus", "bfloat16", "none")


@pytest.mark.slow
def test_what_any_processor_has_can_be_measured_and_what_none_has_is_refused() -> None:
    plain = peak.INSTRUCTIONS["portable"][0]
    assert peak.measure(plain, threads=1) > 0
    with pytest.raises(peak.NoPeak, match=r"does not compile NONSENSE: .*name an instruction"):
        peak.measure("NONSENSE")
