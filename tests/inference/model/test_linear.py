"""Quantised linears against the weights that they stand for."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from inference.model.linear import GROUP, Int4Linear, Int8Linear, in_levels


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "bound"), [(Int8Linear, 0.01), (Int4Linear, 0.12)])
def test_a_quantised_linear_is_near_its_own(kind: type[Int8Linear | Int4Linear], bound: float) -> None:
    weight, rows = draw(48, 96), draw(5, 96, seed=1)
    exact = functional.linear(rows, weight)
    error = (kind(weight)(rows) - exact).norm() / exact.norm()
    assert 0 < error < bound


def test_weights_that_were_in_four_bits_come_back_as_they_were() -> None:
    levels = torch.randint(0, 16, (8, 4, GROUP), generator=torch.Generator().manual_seed(3)).float()
    levels[..., 0], levels[..., 1] = 0, 15
    scales, mins = draw(8, 4, 1).abs().half().float(), draw(8, 4, 1, seed=2).half().float()
    weight = (levels * scales + mins).reshape(8, -1)
    again = Int4Linear(weight).dequantized(torch.float32)
    torch.testing.assert_close(again, weight, atol=2e-3, rtol=0)


def test_outputs_of_zeros_stay_zeros() -> None:
    weight = torch.zeros(16, 32)
    for kind in (Int8Linear, Int4Linear):
        assert not kind(weight)(draw(3, 32)).any()


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_bits_of_a_ragged_width_are_refused(kind: type[Int8Linear | Int4Linear]) -> None:
    with pytest.raises(ValueError, match="groups of 32 inputs, and this linear has 40"):
        kind(draw(16, 40))


def test_a_large_number_of_a_row_rounds_only_its_own_group() -> None:
    rows = draw(3, 96)
    rows[:, 5] = 1000.0
    error = (in_levels(rows) - rows).abs()
    assert error[:, :32].max() > 1
    assert error[:, 32:].max() < 0.02


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_rows_are_quantised_on_a_cpu_alone(kind: type[Int8Linear | Int4Linear]) -> None:
    linear = kind(draw(48, 96))
    assert linear.quantizes_rows
    elsewhere = (linear.on(torch.device("meta")), kind(draw(48, 96).to("meta")))
    assert not any(each.quantizes_rows or each.outputs(slice(0, 8)).quantizes_rows for each in elsewhere)


def test_what_is_said_to_meet_rows_as_they_are_does() -> None:
    linear, rows = Int8Linear(draw(48, 96)), draw(5, 96, seed=1)
    seen = linear(rows)
    linear.quantizes_rows = False
    assert torch.equal(linear(rows), functional.linear(rows, linear.dequantized(torch.float32)))
    assert not torch.equal(linear(rows), seen)
