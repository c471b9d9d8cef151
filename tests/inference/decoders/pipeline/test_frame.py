"""What goes from stage to stage comes back as it was: words, tensors, their order in memory, and batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.decoders.batch import Batch, Segment
from inference.decoders.pipeline.frame import Frame, decode, encode, length_of
from inference.decoders.pipeline.micro_batch import as_tensors, from_tensors, micro_batches


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(7),
        torch.randn(3, 5),
        torch.randn(3, 5).to(torch.bfloat16),
        torch.randn(3, 5).to(torch.float16),
        torch.empty((0, 4)),
        torch.randn(2, 3, 5).transpose(1, 2),
        torch.randn(4, 3, 5).transpose(1, 2)[1:3],
        torch.tensor(True),
    ],
)
def test_a_tensor_keeps_its_numbers_and_its_order(tensor: Tensor) -> None:
    frame = decode(encode(Frame("put", 3, {"slot": 1}, (torch.ones(3), tensor, torch.zeros(2)))))
    assert (frame.kind, frame.to, frame.told) == ("put", 3, {"slot": 1})
    assert frame.tensors[1].dtype == tensor.dtype
    assert frame.tensors[1].stride() == tensor.stride()
    assert torch.equal(frame.tensors[1], tensor)
    assert torch.equal(frame.tensors[2], torch.zeros(2))


def test_what_has_gaps_comes_without_them() -> None:
    wide = torch.randn(4, 10)
    (found,) = decode(encode(Frame("ended", tensors=(wide[:, :7],)))).tensors
    assert torch.equal(found, wide[:, :7])
    assert found.is_contiguous()


def test_a_frame_says_how_long_it_is() -> None:
    content = encode(Frame("pass", told={"name": "é"}, tensors=(torch.ones(1000),)))
    assert length_of(content) == len(content)


def batch() -> Batch:
    """Two decode rows, a tile of three and one of four rows; the middle of the last tile is wanted."""
    rows = torch.arange(9)
    tables = ((4, 5), (6,), (7, 8), (7, 8))
    segments = [Segment(*place) for place in zip((0, 1, 2, 5), (1, 1, 3, 4), tables, (33, 2, 3, 7), strict=True)]
    return Batch(
        rows,
        rows + 1,
        rows + 2,
        rows - 1,
        tuple(segments[:2]),
        tuple(segments[2:]),
        torch.tensor([0, 1, 4, 8]),
        torch.tensor([6, 7]),
    )


def test_a_batch_comes_back() -> None:
    found = from_tensors(as_tensors(batch()))
    assert (found.decodes, found.tiles) == (batch().decodes, batch().tiles)
    for name in ("token_ids", "positions", "cache_slots", "adapter_slots", "sample_rows", "hidden_rows"):
        assert torch.equal(getattr(found, name), getattr(batch(), name))


@pytest.mark.parametrize("count", range(1, 7))
def test_micro_batches_are_all_rows_in_their_order(count: int) -> None:
    parts = micro_batches(batch(), count)
    assert len(parts) <= min(count, 4)
    assert torch.cat([part.batch.token_ids for part in parts]).tolist() == list(range(9))
    lengths = [sum(one.length for one in part.batch.decodes + part.batch.tiles) for part in parts]
    assert lengths == [len(part.batch.token_ids) for part in parts]


def test_each_has_its_own_of_what_is_wanted() -> None:
    first, last = micro_batches(batch(), 2)
    assert last.batch.token_ids.tolist() == [5, 6, 7, 8]
    assert (last.batch.sample_rows.tolist(), last.samples.tolist()) == ([3], [3])
    assert (last.batch.hidden_rows.tolist(), last.hidden.tolist()) == ([1, 2], [0, 1])
    assert (first.samples.tolist(), first.hidden.tolist()) == ([0, 1, 2], [])
    assert last.batch.tiles == (Segment(0, 4, (7, 8), 7),)
