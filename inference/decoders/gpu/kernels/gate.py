"""What blends' gates make of rows, between the two halves of their updates: the sums of `shrink` are multiplied by a
coefficient for each part. It is asked of those passes alone that have a blend.

A program has one row and one target, and sums up in an order that depends on the widths only. A gate lies in its slot's
memory as one record: numbers, the ends of the parts, and its tensors.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.adapters.gate import MAX_GATED, Gate
from inference.decoders.gpu.kernels.lora_kernels import part_at
from inference.decoders.gpu.kernels.slot_table import INDEX, Group, SlotTable
from inference.model.architecture import TARGETS

_KINDS: Final = ("arrow", "flow", "ramole")
_HEAD: Final = 8
"""Numbers at the beginning of a record: kind, columns, parts, how many are chosen, temperature, where keys and bias
begin; the last is the 0 at which the first part begins."""
_STEP: Final = 64
"""Inputs of a step of a projection."""
_TARGETS: tl.constexpr = tl.constexpr(len(INDEX))
_LANES: tl.constexpr = tl.constexpr(MAX_GATED)
_ENDS: tl.constexpr = tl.constexpr(_HEAD)
_TENSORS: tl.constexpr = tl.constexpr(_HEAD + MAX_GATED)
_ARROW: tl.constexpr = tl.constexpr(0)
_FLOW: tl.constexpr = tl.constexpr(1)


def record_of(gate: Gate) -> Tensor:
    """A gate as the kernels read it, int32 [n]. Of keys there is what belongs to parts. Of one that looks at the stream
    it is for `weigh_stream` too."""
    parts = len(gate.ends)
    keys = None if gate.keys is None else gate.keys[:, :, : gate.ends[-1]]
    tensors = [torch.empty(0) if each is None else each for each in (gate.projection.mT, keys, gate.bias)]
    floats = [tensor.to(torch.float32).contiguous().view(-1).view(torch.int32) for tensor in tensors]
    starts = [_HEAD + MAX_GATED + sum(map(len, floats[: at + 1])) for at in range(2)]
    temperature = int(torch.tensor(gate.temperature, dtype=torch.float32).view(torch.int32))
    chosen = min(gate.top_k or parts, parts)
    has_bias = gate.bias is not None
    head = [_KINDS.index(gate.kind), gate.projection.shape[2], parts, chosen, temperature]
    head += [starts[0], starts[1] if has_bias else 0, 0]
    ends = [*gate.ends, *[gate.ends[-1]] * (MAX_GATED - parts)]
    return torch.cat([torch.tensor(head + ends, dtype=torch.int32), *floats])


def weigh_stream(hidden: Tensor, slots: Tensor, table: SlotTable, layer: int) -> Tensor:
    """The coefficients float32 [n, `MAX_GATED`] of the rows whose gate looks at the stream `hidden` [n, width].

    Those of others stay unwritten.
    """
    coefficients = torch.empty((len(hidden), MAX_GATED), dtype=torch.float32, device=hidden.device)
    _weigh_stream[(len(hidden),)](hidden, slots, table.streams, coefficients, layer, hidden.shape[1], STEP=_STEP)
    return coefficients


def no_sums(rows: int, device: torch.device) -> Tensor:
    """Float32 [rows, targets, MAX_GATED + 1], to which `weigh` adds coefficients, and behind them how many times: a
    program has a place of its own, so that sums do not depend on which comes first."""
    return torch.zeros((rows, len(TARGETS), MAX_GATED + 1), dtype=torch.float32, device=device)


def weigh(
    buffer: Tensor,
    rows: Tensor,
    slots: Tensor,
    table: SlotTable,
    group: Group,
    layer: int,
    coefficients: Tensor,
    told: Tensor,
) -> None:
    """Multiply what `shrink` made of `rows` in `buffer` by what their gates say, in place, and add that to `told`.

    `coefficients` are those of `weigh_stream` for these rows, and `told` those of `no_sums`.
    """
    pieces = len(buffer)
    _weigh[(len(rows), group.count)](
        rows,
        slots,
        table.gates,
        buffer,
        coefficients,
        told,
        len(rows),
        layer,
        group.width_in,
        table.max_rank,
        FIRST=group.first,
        COUNT=group.count,
        TOLD=told.shape[1],
        PIECES=pieces,
        PIECES_UP=triton.next_power_of_2(pieces),
        RANKS=triton.next_power_of_2(table.max_rank),
        STEP=_STEP,
    )


@triton.jit
def _project(
    record: tl.tensor, columns: tl.tensor, row: tl.tensor, width: tl.tensor, layer: tl.tensor, STEP: tl.constexpr
) -> tl.tensor:
    """A row at `row` times the projection of a record."""
    lane = tl.arange(0, _LANES)
    start = _TENSORS + layer.to(tl.int64) * columns * width
    weights = part_at(record, start, tl.float32)
    total = tl.zeros((_LANES, STEP), tl.float32)
    for first in range(0, width, STEP):
        feature = first + tl.arange(0, STEP)
        x = tl.load(row + feature, mask=feature < width, other=0.0).to(tl.float32)
        inside = (lane[:, None] < columns) & (feature[None, :] < width)
        total += tl.load(weights + lane[:, None] * width + feature[None, :], mask=inside, other=0.0) * x[None, :]
    return tl.sum(total, axis=1)


@triton.jit
def _coefficients(record: tl.tensor, scores: tl.tensor, layer: tl.tensor) -> tl.tensor:
    """The softmax over the largest of `scores`, of equals the first, 0 of the others, plus the bias."""
    head, lane = part_at(record, 0, tl.int32), tl.arange(0, _LANES)
    parts, count = tl.load(head + 2), tl.load(head + 3)
    is_left = lane < parts
    for _ in range(0, count):
        top = tl.max(tl.where(is_left, scores, float("-inf")), axis=0)
        first = tl.min(tl.where(is_left & (scores == top), lane, _LANES), axis=0)
        is_left = is_left & (lane != first)
    is_chosen = (lane < parts) & (is_left == 0)
    largest = tl.max(tl.where(is_chosen, scores, float("-inf")), axis=0)
    temperature = tl.load(part_at(record, 4, tl.float32))
    powers = tl.where(is_chosen, tl.exp((scores - largest) / temperature), 0.0)
    found = powers / tl.sum(powers, axis=0)
    bias = tl.load(head + 6)
    if bias != 0:
        start = bias.to(tl.int64) + layer.to(tl.int64) * parts
        found += tl.load(part_at(record, start, tl.float32) + lane, mask=lane < parts, other=0.0)
    return found


@triton.jit(do_not_specialize=["layer"])
def _weigh_stream(
    hidden: tl.tensor,
    slots: tl.tensor,
    streams: tl.tensor,
    coefficients: tl.tensor,
    layer: tl.tensor,
    width: tl.tensor,
    STEP: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    record = tl.load(streams + slot, mask=slot >= 0, other=0)
    if record != 0:
        columns = tl.load(part_at(record, 1, tl.int32))
        scores = _project(record, columns, hidden + row * width, width, layer, STEP)
        lane = tl.arange(0, _LANES)
        tl.store(coefficients + row * _LANES + lane, _coefficients(record, scores, layer))


@triton.jit(do_not_specialize=["layer", "num_rows"])
def _weigh(
    rows: tl.tensor,
    slots: tl.tensor,
    gates: tl.tensor,
    buffer: tl.tensor,
    coefficients: tl.tensor,
    told: tl.tensor,
    num_rows: tl.tensor,
    layer: tl.tensor,
    width: tl.tensor,
    max_rank: tl.tensor,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    TOLD: tl.constexpr,
    PIECES: tl.constexpr,
    PIECES_UP: tl.constexpr,
    RANKS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    row, target = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + row)
    record = tl.load(gates + slot * _TARGETS + FIRST + target, mask=slot >= 0, other=0)
    if record != 0:
        head, lane = part_at(record, 0, tl.int32), tl.arange(0, _LANES)
        kind, columns, keys = tl.load(head), tl.load(head + 1), tl.load(head + 5)
        piece, rank = tl.arange(0, PIECES_UP)[:, None], tl.arange(0, RANKS)
        starts, ends = tl.load(head + _ENDS - 1 + lane), tl.load(head + _ENDS + lane)
        is_own = (rank[None, :] >= starts[:, None]) & (rank[None, :] < ends[:, None])
        last = tl.max(ends, axis=0)
        sums = buffer + ((piece * num_rows + row) * COUNT + target) * max_rank + rank[None, :]
        inside = (piece < PIECES) & (rank[None, :] < last)
        shrunk = tl.load(sums, mask=inside, other=0.0)
        if kind == _FLOW:
            found = tl.load(coefficients + row * _LANES + lane)
        else:
            scores = _project(record, columns, rows + row * width, width, layer, STEP)
            if kind == _ARROW:
                scores = tl.abs(scores)
            else:
                own = part_at(record, keys + layer.to(tl.int64) * columns * last, tl.float32)
                there = (lane[:, None] < columns) & (rank[None, :] < last)
                key = tl.load(own + lane[:, None] * last + rank[None, :], mask=there, other=0.0)
                agreement = tl.sum(shrunk, axis=0) * tl.sum(key * scores[:, None], axis=0)
                scores = tl.sum(tl.where(is_own, agreement[None, :], 0.0), axis=1)
            found = _coefficients(record, scores, layer)
        own_sums = told + (row * TOLD + FIRST + target) * (_LANES + 1) + lane
        tl.store(own_sums, tl.load(own_sums) + found)
        tl.store(own_sums + _LANES, tl.load(own_sums + _LANES) + 1.0, mask=lane == 0)
        # One of these is the rank's own and the others are zeros.
        of_rank = tl.sum(tl.where(is_own, found[:, None], 0.0), axis=0)
        tl.store(sums, shrunk * of_rank[None, :], mask=inside)
