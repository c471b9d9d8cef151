"""Low-rank updates of many adapters in one batch: out += (rows @ A) @ B, each row with the pair of its slot.

Decode rows come as they like: a program takes one row and the pair of its slot, which waits for memory and for
nothing else (as Punica's BGMV, arXiv 2310.18547). A prefill tile has one slot and goes through tensor cores. A row of
the base has slot -1, costs a look at that number and keeps its bits. An adapter with magnitudes (DoRA) scales the sum.
How a sum is cut into pieces, and in which order they are added, depends on the width of the layer only, and there are
no atomics, so a row's bits depend on that row alone.

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
"""Input features that one program of a shrinking kernel sums over."""
_STEP: Final = 128
_COLUMNS: Final = {1: 256, TILE: 128}
"""Output features of one program of an expanding kernel, by length of the runs of rows."""
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
    kernel, sizes = (_shrink_row, {}) if length == 1 else (_shrink_tile, {"ROWS": length, "STEP": _STEP})
    kernel[(len(rows) // length, group.count * pieces)](
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
        CHUNK=CHUNK,
        num_warps=4,
        **sizes,
    )
    return planes


def _run_expand(
    out: Tensor, planes: Tensor, slots: Tensor, table: SlotTable, group: Group, layer: int, length: int
) -> None:
    widths, pieces = (*group.widths, 0, 0)[:3], planes.shape[0]
    blocks = [triton.cdiv(width, _COLUMNS[length]) for width in widths]
    own = {"PIECES_UP": triton.next_power_of_2(pieces)} if length == 1 else {"ROWS": length}
    kernel = _expand_row if length == 1 else _expand_tile
    kernel[(len(out) // length, sum(blocks))](
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
        PIECES=pieces,
        MAX_RANK=table.max_rank,
        IS_INT8=table.is_int8,
        WIDTH=sum(widths),
        WIDTH_0=widths[0],
        WIDTH_1=widths[1],
        WIDTH_2=widths[2],
        BLOCKS_0=blocks[0],
        BLOCKS_1=blocks[1],
        COLUMNS=_COLUMNS[length],
        num_warps=4,
        **own,
    )


@triton.jit(do_not_specialize=["layer", "num_rows"])
def _shrink_row(
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
    CHUNK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    target, piece = tl.program_id(1) // PIECES, tl.program_id(1) % PIECES
    slot = tl.load(slots + row)
    entry = slot * _TARGETS + FIRST + target
    rank = tl.load(rank_table + entry, mask=slot >= 0, other=0)
    if rank > 0:
        a = tl.load(a_table + entry).to(tl.pointer_type(tl.int8 if IS_INT8 else rows.dtype.element_ty))
        a += layer.to(tl.int64) * rank * width
        features = piece * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(rows + row * width + features, mask=features < width, other=0.0).to(tl.float32)
        for r in range(0, rank, _RANKS):
            ranks = r + tl.arange(0, _RANKS)
            inside = (ranks[:, None] < rank) & (features[None, :] < width)
            weights = tl.load(a + ranks[:, None] * width + features[None, :], mask=inside, other=0)
            product = tl.sum(weights.to(tl.float32) * x[None, :], axis=1)
            plane = ((piece * num_rows + row) * COUNT + target) * MAX_RANK + ranks
            tl.store(planes + plane, product, mask=ranks < rank)


@triton.jit(do_not_specialize=["layer", "num_rows"])
def _shrink_tile(
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
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    first = tl.program_id(0) * ROWS
    target, piece = tl.program_id(1) // PIECES, tl.program_id(1) % PIECES
    slot = tl.load(slots + first)
    entry = slot * _TARGETS + FIRST + target
    rank = tl.load(rank_table + entry, mask=slot >= 0, other=0)
    address = tl.load(a_table + entry, mask=slot >= 0, other=0)
    a = address.to(tl.pointer_type(tl.int8 if IS_INT8 else rows.dtype.element_ty))
    a += layer.to(tl.int64) * rank * width
    row = (first + tl.arange(0, ROWS)).to(tl.int64)
    for r in range(0, rank, _RANKS):
        ranks = r + tl.arange(0, _RANKS)
        product = tl.zeros((ROWS, _RANKS), tl.float32)
        for k in range(0, CHUNK, STEP):
            features = piece * CHUNK + k + tl.arange(0, STEP)
            x = tl.load(rows + row[:, None] * width + features[None, :], mask=features[None, :] < width, other=0.0)
            a_inside = (ranks[None, :] < rank) & (features[:, None] < width)
            weights = tl.load(a + ranks[None, :] * width + features[:, None], mask=a_inside, other=0)
            product = tl.dot(x, weights.to(x.dtype), product, input_precision="ieee")
        plane = ((piece * num_rows + row[:, None]) * COUNT + target) * MAX_RANK + ranks[None, :]
        tl.store(planes + plane, product, mask=ranks[None, :] < rank)


@triton.jit
def _target_of(
    block: tl.tensor,
    WIDTH_0: tl.constexpr,
    WIDTH_1: tl.constexpr,
    WIDTH_2: tl.constexpr,
    BLOCKS_0: tl.constexpr,
    BLOCKS_1: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Which target of its group a block of columns belongs to, its number there, the target's width and its start."""
    is_second, is_third = block >= BLOCKS_0, block >= BLOCKS_0 + BLOCKS_1
    target = is_second.to(tl.int32) + is_third.to(tl.int32)
    block -= tl.where(is_third, BLOCKS_0 + BLOCKS_1, tl.where(is_second, BLOCKS_0, 0))
    width = tl.where(is_third, WIDTH_2, tl.where(is_second, WIDTH_1, WIDTH_0))
    before = tl.where(is_third, WIDTH_0 + WIDTH_1, tl.where(is_second, WIDTH_0, 0))
    return target, block, width, before


@triton.jit(do_not_specialize=["layer", "num_rows"])
def _expand_row(
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
    WIDTH: tl.constexpr,
    WIDTH_0: tl.constexpr,
    WIDTH_1: tl.constexpr,
    WIDTH_2: tl.constexpr,
    BLOCKS_0: tl.constexpr,
    BLOCKS_1: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIECES_UP: tl.constexpr,
) -> None:
    target, block, width, before = _target_of(tl.program_id(1), WIDTH_0, WIDTH_1, WIDTH_2, BLOCKS_0, BLOCKS_1)
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    entry = slot * _TARGETS + FIRST + target
    rank = tl.load(rank_table + entry, mask=slot >= 0, other=0)
    if rank > 0:
        kind = out.dtype.element_ty
        b = tl.load(b_table + entry).to(tl.pointer_type(tl.int8 if IS_INT8 else kind))
        units = tl.load(unit_table + entry).to(tl.pointer_type(tl.float32)) + layer.to(tl.int64) * rank
        b += layer.to(tl.int64) * rank * width
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        piece = tl.arange(0, PIECES_UP)
        update = tl.zeros((COLUMNS,), tl.float32)
        for r in range(0, rank, _RANKS):
            ranks = r + tl.arange(0, _RANKS)
            plane = ((piece[:, None] * num_rows + row) * COUNT + target) * MAX_RANK + ranks[None, :]
            inside = (piece[:, None] < PIECES) & (ranks[None, :] < rank)
            shrunk = tl.sum(tl.load(planes + plane, mask=inside, other=0.0), axis=0)
            if IS_INT8:
                shrunk *= tl.load(units + ranks, mask=ranks < rank, other=0.0)
            b_inside = (ranks[:, None] < rank) & (column[None, :] < width)
            weights = tl.load(b + ranks[:, None] * width + column[None, :], mask=b_inside, other=0)
            update += tl.sum(shrunk.to(kind).to(tl.float32)[:, None] * weights.to(tl.float32), axis=0)
        place = out + row * WIDTH + before + column
        total = tl.load(place, mask=column < width, other=0.0).to(tl.float32) + update
        scale = tl.load(scale_table + entry)
        if scale != 0:
            scales = scale.to(tl.pointer_type(tl.float32)) + layer.to(tl.int64) * width
            total *= tl.load(scales + column, mask=column < width, other=0.0)
        tl.store(place, total.to(kind), mask=column < width)


@triton.jit(do_not_specialize=["layer", "num_rows"])
def _expand_tile(
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
    WIDTH: tl.constexpr,
    WIDTH_0: tl.constexpr,
    WIDTH_1: tl.constexpr,
    WIDTH_2: tl.constexpr,
    BLOCKS_0: tl.constexpr,
    BLOCKS_1: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    target, block, width, before = _target_of(tl.program_id(1), WIDTH_0, WIDTH_1, WIDTH_2, BLOCKS_0, BLOCKS_1)
    first = tl.program_id(0) * ROWS
    slot = tl.load(slots + first)
    entry = slot * _TARGETS + FIRST + target
    rank = tl.load(rank_table + entry, mask=slot >= 0, other=0)
    if rank > 0:
        kind = out.dtype.element_ty
        b = tl.load(b_table + entry).to(tl.pointer_type(tl.int8 if IS_INT8 else kind))
        units = tl.load(unit_table + entry).to(tl.pointer_type(tl.float32)) + layer.to(tl.int64) * rank
        b += layer.to(tl.int64) * rank * width
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        update = tl.zeros((ROWS, COLUMNS), tl.float32)
        for r in range(0, rank, _RANKS):
            ranks = r + tl.arange(0, _RANKS)
            shrunk = tl.zeros((ROWS, _RANKS), tl.float32)
            for piece in range(PIECES):
                plane = ((piece * num_rows + row[:, None]) * COUNT + target) * MAX_RANK + ranks[None, :]
                shrunk += tl.load(planes + plane, mask=ranks[None, :] < rank, other=0.0)
            if IS_INT8:
                shrunk *= tl.load(units + ranks, mask=ranks < rank, other=0.0)[None, :]
            b_inside = (ranks[:, None] < rank) & (column[None, :] < width)
            weights = tl.load(b + ranks[:, None] * width + column[None, :], mask=b_inside, other=0)
            update = tl.dot(shrunk.to(kind), weights.to(kind), update, input_precision="ieee")
        place = out + row[:, None] * WIDTH + before + column[None, :]
        total = tl.load(place, mask=column[None, :] < width, other=0.0).to(tl.float32) + update
        scale = tl.load(scale_table + entry)
        if scale != 0:
            scales = scale.to(tl.pointer_type(tl.float32)) + layer.to(tl.int64) * width
            total *= tl.load(scales + column, mask=column < width, other=0.0)[None, :]
        tl.store(place, total.to(kind), mask=column[None, :] < width)


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
