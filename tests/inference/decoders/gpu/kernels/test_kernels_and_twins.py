"""Every kernel gives what its twin gives, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.decoders.gpu.kernels.paged_attention import Scores
from inference.model.linear import Int4Linear, Int8Linear
from inference.model.spec import Activation, Norm
from tests.inference.decoders.gpu.kernels import equalities

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="the kernels are compiled here; test_on_a_device.py tests them"
    ),
]
both = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])


@both
@pytest.mark.parametrize("kind", Norm)
def test_norms_add_bias_multiply_and_scale(dtype: torch.dtype, kind: Norm) -> None:
    equalities.check_norm(dtype, "cpu", kind)


@both
def test_adapters_have_biases_of_norms(dtype: torch.dtype) -> None:
    equalities.check_slot_biases(dtype, "cpu")
    for kind in ("centred by head, in part", "centred whole, in part"):
        equalities.check_rope(dtype, "cpu", kind, has_slot_biases=True)


@both
@pytest.mark.parametrize("is_gated", [True, False])
@pytest.mark.parametrize("kind", Activation)
def test_the_mlp_bends_its_rows(dtype: torch.dtype, kind: Activation, is_gated: bool) -> None:
    equalities.check_activation(dtype, "cpu", kind, is_gated)


@both
def test_logits_are_biased_multiplied_and_capped(dtype: torch.dtype) -> None:
    equalities.check_logits(dtype, "cpu")


@both
@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_weights_in_groups_are_expanded_as_they_are_multiplied(
    dtype: torch.dtype, kind: type[Int8Linear | Int4Linear]
) -> None:
    equalities.check_grouped(dtype, "cpu", kind)


@both
@pytest.mark.parametrize("kind", equalities.HEADS)
def test_heads_turn_and_go_into_the_cache(dtype: torch.dtype, kind: str) -> None:
    equalities.check_rope(dtype, "cpu", kind)


@both
@pytest.mark.parametrize("how", [Scores(), Scores(20), Scores(600, 0.3), Scores(None, 0.1, 2.0)])
def test_decode_rows_attend_over_their_blocks(dtype: torch.dtype, how: Scores) -> None:
    equalities.check_decode_attention(dtype, "cpu", how)


@both
def test_a_short_context_does_not_see_how_long_others_are(dtype: torch.dtype) -> None:
    equalities.check_splits(dtype, "cpu")


@both
@pytest.mark.parametrize("how", [Scores(), Scores(20), Scores(None, 0.1, 2.0)])
def test_tiles_attend_over_their_blocks(dtype: torch.dtype, how: Scores) -> None:
    equalities.check_tile_attention(dtype, "cpu", how)


@pytest.mark.parametrize(("heads", "dim"), [(10, 200), (6, 8)])
def test_heads_may_be_wide_or_narrow_and_share_a_key_head_by_many(heads: int, dim: int) -> None:
    equalities.check_tile_attention(torch.float32, "cpu", Scores(20), heads, dim)


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
