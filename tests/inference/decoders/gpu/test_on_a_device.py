"""The equalities of the GPU decoder and of its kernels, on a real GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.decoders.gpu import graphs
from inference.decoders.gpu.kernels.paged_attention import Scores
from inference.model.linear import Int4Linear, Int8Linear
from inference.model.spec import Activation, Norm
from tests.inference.decoders.gpu.kernels import equalities
from tests.inference.decoders.gpu.worlds import (
    MODELS,
    by_kernels,
    by_torch,
    make_family_world,
    make_passes,
    make_world,
    tokens,
)
from tests.inference.families import VARIANTS
from tests.inference.passes import Chunk

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@types
def test_rows_are_computed_as_the_twins_do(dtype: torch.dtype) -> None:
    for norm in Norm:
        equalities.check_norm(dtype, "cuda", norm)
    for kind in Activation:
        for is_gated in (True, False):
            equalities.check_activation(dtype, "cuda", kind, is_gated)
    equalities.check_logits(dtype, "cuda")
    equalities.check_slot_biases(dtype, "cuda")
    equalities.check_grouped(dtype, "cuda", Int8Linear)
    equalities.check_grouped(dtype, "cuda", Int4Linear)


@types
@pytest.mark.parametrize("kind", equalities.HEADS)
def test_heads_turn_as_the_twin_turns_them(dtype: torch.dtype, kind: str) -> None:
    equalities.check_rope(dtype, "cuda", kind)
    equalities.check_rope(dtype, "cuda", kind, has_slot_biases="centred" in kind)


@types
@pytest.mark.parametrize("how", [Scores(), Scores(20), Scores(600, 0.3), Scores(None, 0.1, 2.0)])
def test_attention_is_computed_as_the_twin_does(dtype: torch.dtype, how: Scores) -> None:
    equalities.check_decode_attention(dtype, "cuda", how)
    for heads, dim in ((6, 24), (10, 200), (6, 8), (32, 128)):
        equalities.check_tile_attention(dtype, "cuda", how, heads, dim)
    equalities.check_splits(dtype, "cuda")


@types
@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("name", ["qkv", "o", "gate_up", "down", "head"])
def test_updates_are_computed_as_the_twin_does(dtype: torch.dtype, name: str, is_int8: bool) -> None:
    equalities.check_lora(dtype, "cuda", name, is_int8)
    equalities.check_embedding(dtype, "cuda", is_int8)


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_graphs_and_tiles_equal_the_torch_decoder(tmp_path: Path, kind: str, is_deterministic: bool) -> None:
    """The first round computes prompts kernel by kernel, the second captures them, the third replays."""
    world = make_world(tmp_path, kind)
    computed = by_kernels(world, "cuda", is_deterministic, rounds=3)
    for one, other in zip(computed, by_torch(world, rounds=3), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_equals_the_torch_decoder(tmp_path: Path, variant: str) -> None:
    world = make_family_world(tmp_path, variant)
    for one, other in zip(by_kernels(world, "cuda", rounds=3), by_torch(world, rounds=3), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


def test_a_graph_gives_the_bits_that_its_kernels_give_one_by_one(tmp_path: Path) -> None:
    passes, slots = make_passes(make_world(tmp_path, "llama"), "cuda", is_deterministic=True)
    chunks = [Chunk(passes.sequence(slot), tokens(40, slot + 1)) for slot in slots]
    batch, _ = passes.batch(*chunks, Chunk(passes.sequence(slots[1]), tokens(1, 9), False))
    first, *again = (passes.decoder.forward(batch, passes.cache).clone() for _ in range(4))
    assert all(torch.equal(first, other) for other in again)


def test_graphs_that_are_dropped_and_captured_again_still_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "TILE_GRAPHS", 1)
    world = make_world(tmp_path, "llama")
    for one, other in zip(by_kernels(world, "cuda", rounds=4), by_torch(world, rounds=4), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
