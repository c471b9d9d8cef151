"""Activated adapters (aLoRA) in Triton's interpreter: the tile in which one becomes active beside torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need the package triton")

from tests.inference.decoders.gpu.worlds import World, make_passes, make_torch_passes, make_world, tokens
from tests.inference.passes import Chunk, Passes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here"),
]

PLACES = (1, 37)
"""Of the first token that is an adapter's, in a prompt of 40 tokens."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), "llama")


def read(passes: Passes, slot: int, *places: int) -> list[Tensor]:
    """Logits of one prompt, read by the adapter in `slot` from each of `places` on, and of the token behind it."""
    sequences = [passes.sequence(slot, 64) for _ in places]
    for sequence, place in zip(sequences, places, strict=True):
        sequence.active_from = place
    rows = passes.run(*(Chunk(sequence, tokens(40, 1)) for sequence in sequences))
    ends = passes.run(*(Chunk(sequence, tokens(1, 2), False) for sequence in sequences))
    return [torch.cat(pair) for pair in zip(rows, ends, strict=True)]


@pytest.mark.parametrize("which", [2, 3])
def test_tiles_in_which_an_adapter_becomes_active_equal_those_of_torch(world: World, which: int) -> None:
    """As DoRA on all linears, and on tables."""
    (kernels, slots), (of_torch, torch_slots) = make_passes(world, "cpu"), make_torch_passes(world)
    found = read(kernels, slots[which], *PLACES)
    for one, other in zip(found, read(of_torch, torch_slots[which], *PLACES), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_rows_before_the_invocation_are_the_bases_bit_for_bit(world: World) -> None:
    passes, slots = make_passes(world, "cpu")
    *found, base = read(passes, slots[2], *PLACES, 64)
    (alone,) = read(passes, -1, 0)
    for place, rows in zip(PLACES, found, strict=True):
        assert torch.equal(rows[:place], base[:place])
        assert ((rows[place:] - alone[place:]).abs().amax(-1) > 1e-3).all()
    assert torch.equal(base[:40], alone[:40])
