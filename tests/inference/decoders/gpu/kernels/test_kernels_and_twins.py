"""Every kernel gives what its twin gives, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

from tests.inference.decoders.gpu.kernels import equalities

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="the kernels are compiled here; test_on_a_device.py tests them"
    ),
]
both = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])


@both
@pytest.mark.parametrize("has_update", [True, False])
def test_the_norm_adds_and_scales(dtype: torch.dtype, has_update: bool) -> None:
    equalities.check_norm(dtype, "cpu", has_update)


@both
def test_the_gate_of_the_mlp(dtype: torch.dtype) -> None:
    equalities.check_swiglu(dtype, "cpu")


@both
def test_heads_turn_and_go_into_the_cache(dtype: torch.dtype) -> None:
    equalities.check_rope(dtype, "cpu")


@both
@pytest.mark.parametrize("window", [None, 20, 600])
def test_decode_rows_attend_over_their_blocks(dtype: torch.dtype, window: int | None) -> None:
    equalities.check_decode_attention(dtype, "cpu", window)


@both
def test_a_short_context_does_not_see_how_long_others_are(dtype: torch.dtype) -> None:
    equalities.check_splits(dtype, "cpu")


@both
@pytest.mark.parametrize("window", [None, 20])
def test_tiles_attend_over_their_blocks(dtype: torch.dtype, window: int | None) -> None:
    equalities.check_tile_attention(dtype, "cpu", window)


@pytest.mark.parametrize("name", ["qkv", "o", "gate_up", "down", "head"])
def test_each_row_gets_the_update_of_its_slot(name: str) -> None:
    equalities.check_lora(torch.float32, "cpu", name)


def test_updates_are_rounded_as_the_twin_rounds_them() -> None:
    equalities.check_lora(torch.float16, "cpu", "o")


def test_pairs_in_int8_give_the_update_of_their_integers() -> None:
    equalities.check_lora(torch.float32, "cpu", "gate_up", is_int8=True)


@both
def test_each_token_gets_the_embedding_of_its_slot(dtype: torch.dtype) -> None:
    equalities.check_embedding(dtype, "cpu")
    equalities.check_embedding(dtype, "cpu", is_int8=True)
