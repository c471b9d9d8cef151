"""Low-rank updates of many adapters in one batch: out += (rows @ A) @ B, each row with the pair of its slot.

Decode rows come as they like: `shrink` multiplies every block of rows with every slot that one of them has, and
leaves out the others; `expand` reads a row's slot. A prefill tile has one slot. A row of the base has slot -1,
costs a look at that number and keeps its bits. An adapter with magnitudes (DoRA) scales the sum. How a sum is cut
into pieces depends on the width of the layer only, pieces are added in order, and there are no atomics, so a row's
bits depend on that row alone.

Where the pairs lie is told by tables of addresses, so adapters come and go beneath a captured CUDA graph.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.slot_table import INDEX, Group, Pair, SlotTable
from inference.tile import TILE

CHUNK: Final = 512
"""Input features that one program of `shrink` sums over."""
_STEP: Final = 128
_DECODE_ROWS: Final = 16
_COLUMNS: Final = 128
_RANKS: tl.constexpr = tl.constexpr(16)
"""Ranks of one step: the least that a tensor core takes."""
_TARGETS: tl.constexpr = tl.constexpr(len(INDEX))


def add_lora(out: Tensor, rows: Tensor, slots: Tensor, table: SlotTable, group: Group, layer: int, length: int) -> None:
    """Add the updates of `rows` [n, width in] to `out` [n, sum of widths] in place.

    `slots` are int32 [n]. Rows come in runs of `length` of one slot: 1 for decode rows, `TILE` for tiles.
    """
    assert length in (1, TILE), "rows come alone or as tiles"
    assert len(out) == len(rows) == len(slots), "each row has an update and a slot"
    if len(rows):
        planes = _run_shrink(rows, slots, table, group, layer, length)
        _run_expand(out, planes, slots, table, group, layer, length)


def add_embedding(out: Tensor, token_ids: Tensor, slots: Tensor, table: SlotTable, group: Group) -> None:
    """Add the updates of the embeddings of `token_ids` int32 [n] to `out` [n, hidden] in place."""
    planes = torch.empty((1, len(out), 1, table.max_rank), dtype=torch.float32, device=out.device)
    ranks = triton.next_power_of_2(table.max_rank)
    _look_up[(len(out),)](
        token_ids, slots, table.a, table.rank, planes, out, group.first, table.max_rank, ranks, table.is_int8
    )
    _run_expand(out, planes, slots, table, group, 0, 1)


def add_lora_twin(
    out: Tensor, rows: Tensor, slots: Tensor, pairs: dict[int, dict[int, Pair]], group: Group, layer: int
) -> None:
    """What `add_lora` computes, with the pairs by slot and column instead of a table.

    With `rows` int32 [n] it is `add_embedding`, and they are token ids.
    """
    for row, slot in enumerate(slots.tolist()):
        parts = torch.split(out[row], list(group.widths))
        for column, part in enumerate(parts, group.first):
            pair = pairs.get(slot, {}).get(column)
            if pair is not None:
                shrunk = (
                    pair.a[0, rows[row]].float() if rows.dim() == 1 else rows[row].float() @ pair.a[layer].float().T
                )
                shrunk = shrunk if pair.unit is None else shrunk * pair.unit[layer]
                total = part.float() + shrunk.to(out.dtype).float() @ pair.b[layer].float()
                part.copy_(total if pair.scale is None else total * pair.scale[layer])


def _run_shrink(rows: Tensor, slots: Tensor, table: SlotTable, group: Group, layer: int, length: int) -> Tensor:
    """rows @ A in pieces: float32 [pieces, rows, targets, max rank]. What no adapter asks for stays unwritten."""
    pieces = triton.cdiv(group.width_in, CHUNK)
    shape = (pieces, len(rows), group.count, table.max_rank)
    planes = torch.empty(shape, dtype=torch.float32, device=rows.device)
    block = TILE if length == TILE else _DECODE_ROWS
    candidates = 1 if length == TILE else table.num_slots
    _shrink[(triton.cdiv(len(rows), block), candidates, group.count * pieces)](
        rows,
        slots,
        table.a,
        table.rank,
        planes,
        len(rows),
        layer,
        group.width_in,
        FIRST=group.first,
        COUNT=group.count,
        PIECES=pieces,
        MAX_RANK=table.max_rank,
        IS_INT8=table.is_int8,
        IS_TILE=length == TILE,
        ROWS=block,
        CHUNK=CHUNK,
        STEP=_STEP,
        num_warps=4,
    )
    return planes


def _run_expand(
    out: Tensor, planes: Tensor, slots: Tensor, table: SlotTable, group: Group, layer: int, length: int
) -> None:
    widths = (*group.widths, 0, 0)[:3]
    blocks = [triton.cdiv(width, _COLUMNS) for width in widths]
    _expand[(len(out) // length, sum(blocks))](
        out,
        planes,
        slots,
        table.b,
        table.unit,
        table.scale,
        table.rank,
        len(out),
        layer,
        FIRST=group.first,
        COUNT=group.count,
        PIECES=planes.shape[0],
        MAX_RANK=table.max_rank,
        IS_INT8=table.is_int8,
        LENGTH=length,
        ROWS=max(16, length),
        WIDTH=sum(widths),
        WIDTH_0=widths[0],
        WIDTH_1=widths[1],
        WIDTH_2=widths[2],
        BLOCKS_0=blocks[0],
        BLOCKS_1=blocks[1],
        COLUMNS=_COLUMNS,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["layer", "num_rows"])
def _shrink(
    rows: tl.tensor,
    slots: tl.tensor,
    a_table: tl.tensor,
    rank_table: tl.tensor,
    planes: tl.tensor,
    num_rows: tl.tensor,
    layer: tl.tensor,
    width: tl.tensor,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    PIECES: tl.constexpr,
    MAX_RANK: tl.constexpr,
    IS_INT8: tl.constexpr,
    IS_TILE: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    target, piece = tl.program_id(2) // PIECES, tl.program_id(2) % PIECES
    slot = tl.program_id(1)
    if IS_TILE:
        slot = tl.load(slots + tl.program_id(0) * ROWS)
    is_mine = tl.load(slots + row, mask=row < num_rows, other=-1) == slot
    is_wanted = (slot >= 0) & (tl.max(is_mine.to(tl.int32), axis=0) > 0)
    entry = slot * _TARGETS + FIRST + target
    rank = tl.load(rank_table + entry, mask=is_wanted, other=0)
    address = tl.load(a_table + entry, mask=is_wanted, other=0)
    a = address.to(tl.pointer_type(tl.int8 if IS_INT8 else rows.dtype.element_ty))
    a += layer.to(tl.int64) * rank * width
    row = row.to(tl.int64)
    for r in range(0, rank, _RANKS):
        ranks = r + tl.arange(0, _RANKS)
        product = tl.zeros((ROWS, _RANKS), tl.float32)
        for k in range(0, CHUNK, STEP):
            features = piece * CHUNK + k + tl.arange(0, STEP)
            x_inside = is_mine[:, None] & (features[None, :] < width)
            x = tl.load(rows + row[:, None] * width + features[None, :], mask=x_inside, other=0.0)
            a_inside = (ranks[None, :] < rank) & (features[:, None] < width)
            weights = tl.load(a + ranks[None, :] * width + features[:, None], mask=a_inside, other=0)
            product = tl.dot(x, weights.to(x.dtype), product, input_precision="ieee")
        plane = ((piece * num_rows + row[:, None]) * COUNT + target) * MAX_RANK + ranks[None, :]
        tl.store(planes + plane, product, mask=is_mine[:, None] & (ranks[None, :] < rank))


@triton.jit(do_not_specialize=["layer", "num_rows"])
def _expand(
    out: tl.tensor,
    planes: tl.tensor,
    slots: tl.tensor,
    b_table: tl.tensor,
    unit_table: tl.tensor,
    scale_table: tl.tensor,
    rank_table: tl.tensor,
    num_rows: tl.tensor,
    layer: tl.tensor,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    PIECES: tl.constexpr,
    MAX_RANK: tl.constexpr,
    IS_INT8: tl.constexpr,
    LENGTH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_0: tl.constexpr,
    WIDTH_1: tl.constexpr,
    WIDTH_2: tl.constexpr,
    BLOCKS_0: tl.constexpr,
    BLOCKS_1: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    block = tl.program_id(1)
    is_second, is_third = block >= BLOCKS_0, block >= BLOCKS_0 + BLOCKS_1
    target = is_second.to(tl.int32) + is_third.to(tl.int32)
    width = tl.where(is_third, WIDTH_2, tl.where(is_second, WIDTH_1, WIDTH_0))
    before = tl.where(is_third, WIDTH_0 + WIDTH_1, tl.where(is_second, WIDTH_0, 0))
    block -= tl.where(is_third, BLOCKS_0 + BLOCKS_1, tl.where(is_second, BLOCKS_0, 0))

    first = tl.program_id(0) * LENGTH
    slot = tl.load(slots + first)
    entry = slot * _TARGETS + FIRST + target
    rank = tl.load(rank_table + entry, mask=slot >= 0, other=0)
    if rank > 0:
        address = tl.load(b_table + entry)
        b = address.to(tl.pointer_type(tl.int8 if IS_INT8 else out.dtype.element_ty))
        units = tl.load(unit_table + entry).to(tl.pointer_type(tl.float32)) + layer.to(tl.int64) * rank
        b += layer.to(tl.int64) * rank * width
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        is_row = tl.arange(0, ROWS) < LENGTH
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        update = tl.zeros((ROWS, COLUMNS), tl.float32)
        for r in range(0, rank, _RANKS):
            ranks = r + tl.arange(0, _RANKS)
            inside = is_row[:, None] & (ranks[None, :] < rank)
            shrunk = tl.zeros((ROWS, _RANKS), tl.float32)
            for piece in range(PIECES):
                plane = ((piece * num_rows + row[:, None]) * COUNT + target) * MAX_RANK + ranks[None, :]
                shrunk += tl.load(planes + plane, mask=inside, other=0.0)
            if IS_INT8:
                shrunk *= tl.load(units + ranks, mask=ranks < rank, other=0.0)[None, :]
            b_inside = (ranks[:, None] < rank) & (column[None, :] < width)
            weights = tl.load(b + ranks[:, None] * width + column[None, :], mask=b_inside, other=0)
            kind = out.dtype.element_ty
            update = tl.dot(shrunk.to(kind), weights.to(kind), update, input_precision="ieee")
        place = out + row[:, None] * WIDTH + before + column[None, :]
        is_out = is_row[:, None] & (column[None, :] < width)
        total = tl.load(place, mask=is_out, other=0.0).to(tl.float32) + update
        scale = tl.load(scale_table + entry)
        if scale != 0:
            scales = scale.to(tl.pointer_type(tl.float32)) + layer.to(tl.int64) * width
            total *= tl.load(scales + column, mask=column < width, other=0.0)[None, :]
        tl.store(place, total.to(out.dtype.element_ty), mask=is_out)


@triton.jit
def _look_up(
    token_ids: tl.tensor,
    slots: tl.tensor,
    a_table: tl.tensor,
    rank_table: tl.tensor,
    planes: tl.tensor,
    out: tl.tensor,
    COLUMN: tl.constexpr,
    MAX_RANK: tl.constexpr,
    RANKS: tl.constexpr,
    IS_INT8: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    entry = slot * _TARGETS + COLUMN
    rank = tl.load(rank_table + entry, mask=slot >= 0, other=0)
    if rank > 0:
        a = tl.load(a_table + entry).to(tl.pointer_type(tl.int8 if IS_INT8 else out.dtype.element_ty))
        ranks = tl.arange(0, RANKS)
        values = tl.load(a + tl.load(token_ids + row).to(tl.int64) * rank + ranks, mask=ranks < rank, other=0)
        tl.store(planes + row * MAX_RANK + ranks, values.to(tl.float32), mask=ranks < rank)
