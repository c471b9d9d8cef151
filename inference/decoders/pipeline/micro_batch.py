"""A batch in several, which stages compute at the same time, each at another one; and a batch as a frame's tensors.

Rows have the same bits in any company, so the cut is invisible. It falls between segments and keeps their order: a
later tile of a prompt finds the keys of the earlier one, which has been through the stage before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.decoders.batch import Batch, Segment

NUM_TENSORS = 7
"""Of a batch in a frame."""


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of a batch as a batch of their own; `samples` and `hidden` int64 are the places of its sample rows and
    hidden rows among those of the whole."""

    batch: Batch
    samples: Tensor
    hidden: Tensor


def micro_batches(batch: Batch, count: int) -> list[MicroBatch]:
    """`batch` in up to `count` of about as many rows."""
    starts = sorted(segment.start for segment in batch.decodes + batch.tiles)
    total = len(batch.token_ids)
    cuts = sorted({min(starts, key=lambda start: abs(start - total * at / count)) for at in range(count)})
    return [_between(batch, first, end) for first, end in zip(cuts, [*cuts[1:], total], strict=True)]


def _between(batch: Batch, first: int, end: int) -> MicroBatch:
    samples, hidden = (_within(rows, first, end) for rows in (batch.sample_rows, batch.hidden_rows))
    own = Batch(
        token_ids=batch.token_ids[first:end],
        positions=batch.positions[first:end],
        cache_slots=batch.cache_slots[first:end],
        adapter_slots=batch.adapter_slots[first:end],
        decodes=_moved(batch.decodes, first, end),
        tiles=_moved(batch.tiles, first, end),
        sample_rows=batch.sample_rows[samples] - first,
        hidden_rows=batch.hidden_rows[hidden] - first,
    )
    return MicroBatch(own, samples, hidden)


def _within(rows: Tensor, first: int, end: int) -> Tensor:
    return ((rows >= first) & (rows < end)).nonzero().flatten()


def _moved(segments: Sequence[Segment], first: int, end: int) -> tuple[Segment, ...]:
    return tuple(replace(one, start=one.start - first) for one in segments if first <= one.start < end)


def as_tensors(batch: Batch) -> tuple[Tensor, ...]:
    """`batch` as `NUM_TENSORS` tensors."""
    numbers = [len(batch.decodes), len(batch.tiles)]
    for one in batch.decodes + batch.tiles:
        numbers += (one.start, one.length, one.context, len(one.block_table), *one.block_table)
    rows = (batch.token_ids, batch.positions, batch.cache_slots, batch.adapter_slots)
    return (*rows, batch.sample_rows, batch.hidden_rows, torch.tensor(numbers, dtype=torch.int64))


def from_tensors(tensors: Sequence[Tensor]) -> Batch:
    """The batch that `as_tensors` has taken apart."""
    token_ids, positions, cache_slots, adapter_slots, sample_rows, hidden_rows, segments = tensors
    num_decodes, num_tiles, *numbers = segments.tolist()
    found, at = list[Segment](), 0
    for _ in range(num_decodes + num_tiles):
        start, length, context, width = numbers[at : at + 4]
        found.append(Segment(start, length, tuple(numbers[at + 4 : at + 4 + width]), context))
        at += 4 + width
    decodes, tiles = tuple(found[:num_decodes]), tuple(found[num_decodes:])
    return Batch(token_ids, positions, cache_slots, adapter_slots, decodes, tiles, sample_rows, hidden_rows)
