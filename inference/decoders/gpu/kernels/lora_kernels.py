"""The programs behind `inference.decoders.gpu.kernels.lora`: one for a row or a tile, and a target or some columns.

A program whose rows have no adapter, or one without that target, reads a slot and its entry and is done. Those of
padding are of that kind.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inference.decoders.gpu.kernels.slot_table import ALIGNMENT, BUCKETS, INDEX, RANK_BIT

_RANKS: tl.constexpr = tl.constexpr(16)
"""Ranks of one step: the least that a tensor core takes."""
_TARGETS: tl.constexpr = tl.constexpr(len(INDEX))
_LEAST_RANK: tl.constexpr = tl.constexpr(BUCKETS[0])
"""Every rank is a multiple of it, and counted in it."""
_RANK_BIT: tl.constexpr = tl.constexpr(RANK_BIT)
_ADDRESS: tl.constexpr = tl.constexpr((1 << RANK_BIT) - 1)
_ALIGNMENT: tl.constexpr = tl.constexpr(ALIGNMENT)


@triton.jit
def _find(
    slots: tl.tensor, row: tl.tensor, table: tl.tensor, column: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Where the tables have the pair of `row` for the target of `column`, its rank, 0 where there is none, and address.

    Who asks waits for two answers from memory and for no more, which is most of what a small update takes.
    """
    slot = tl.load(slots + row)
    place = slot * _TARGETS + column
    entry = tl.load(table + place, mask=slot >= 0, other=0)
    return place, (entry >> _RANK_BIT).to(tl.int32) * _LEAST_RANK, entry & _ADDRESS


@triton.jit
def part_at(address: tl.tensor, start: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """The part of a pair that lies at `address`, from its element `start` on."""
    # Nobody but us knows that it is aligned, and without that a load would take one number at a time.
    return tl.multiple_of(address.to(tl.pointer_type(KIND)), _ALIGNMENT) + start


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


@triton.jit
def _put(
    total: tl.tensor,
    out: tl.tensor,
    column: tl.tensor,
    width: tl.tensor,
    affine: tl.tensor,
    layer: tl.tensor,
    kept: tl.tensor,
) -> None:
    """Write `total` to `out`, columns `column` of a target, times magnitudes and plus biases if any lie at `affine`,
    where it is `kept`."""
    is_inside = column < width
    if affine != 0:
        magnitudes = part_at(affine, layer.to(tl.int64) * 2 * width, tl.float32)
        total *= tl.load(magnitudes + column, mask=is_inside, other=0.0)
        total += tl.load(magnitudes + width + column, mask=is_inside, other=0.0)
    tl.store(out, total.to(out.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["layer", "num_rows"])
def shrink_row(
    rows: tl.tensor,
    slots: tl.tensor,
    a_table: tl.tensor,
    buffer: tl.tensor,
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
    """A piece of rows @ A for one row and target."""
    row = tl.program_id(0).to(tl.int64)
    target, piece = tl.program_id(1) // PIECES, tl.program_id(1) % PIECES
    _, rank, address = _find(slots, row, a_table, FIRST + target)
    if rank > 0:
        kind = rows.dtype.element_ty
        a = part_at(address, layer.to(tl.int64) * rank * width, tl.int8 if IS_INT8 else kind)
        features = piece * CHUNK + tl.arange(0, CHUNK)
        for r in range(0, rank, _RANKS):
            ranks = r + tl.arange(0, _RANKS)
            inside = (ranks[:, None] < rank) & (features[None, :] < width)
            weights = tl.load(a + ranks[:, None] * width + features[None, :], mask=inside, other=0)
            # After the weights, which take longer: before the loop it would be waited for first.
            x = tl.load(rows + row * width + features, mask=features < width, other=0.0).to(tl.float32)
            product = tl.sum(weights.to(tl.float32) * x[None, :], axis=1)
            sums = ((piece * num_rows + row) * COUNT + target) * MAX_RANK + ranks
            tl.store(buffer + sums, product, mask=ranks < rank)


@triton.jit(do_not_specialize=["layer", "num_rows"])
def shrink_tile(
    rows: tl.tensor,
    slots: tl.tensor,
    a_table: tl.tensor,
    buffer: tl.tensor,
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
    """A piece of rows @ A for one tile and target."""
    first = tl.program_id(0) * ROWS
    target, piece = tl.program_id(1) // PIECES, tl.program_id(1) % PIECES
    _, rank, address = _find(slots, first + ROWS - 1, a_table, FIRST + target)
    if rank > 0:
        kind = rows.dtype.element_ty
        a = part_at(address, layer.to(tl.int64) * rank * width, tl.int8 if IS_INT8 else kind)
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
            sums = ((piece * num_rows + row[:, None]) * COUNT + target) * MAX_RANK + ranks[None, :]
            tl.store(buffer + sums, product, mask=ranks[None, :] < rank)


@triton.jit(do_not_specialize=["layer", "num_rows"])
def expand_row(
    out: tl.tensor,
    buffer: tl.tensor,
    slots: tl.tensor,
    b_table: tl.tensor,
    rank_scale_table: tl.tensor,
    affine_table: tl.tensor,
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
    """The update of one row, in some columns of a target."""
    target, block, width, before = _target_of(tl.program_id(1), WIDTH_0, WIDTH_1, WIDTH_2, BLOCKS_0, BLOCKS_1)
    row = tl.program_id(0).to(tl.int64)
    place, rank, address = _find(slots, row, b_table, FIRST + target)
    if rank > 0:
        kind = out.dtype.element_ty
        start = layer.to(tl.int64) * rank
        b = part_at(address, start * width, tl.int8 if IS_INT8 else kind)
        rank_scales = part_at(tl.load(rank_scale_table + place), start, tl.float32)
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        added = out + row * WIDTH + before + column
        # Asked for before the weights, as it is known where they lie.
        total = tl.load(added, mask=column < width, other=0.0).to(tl.float32)
        affine = tl.load(affine_table + place)
        piece = tl.arange(0, PIECES_UP)
        update = tl.zeros((COLUMNS,), tl.float32)
        for r in range(0, rank, _RANKS):
            ranks = r + tl.arange(0, _RANKS)
            b_inside = (ranks[:, None] < rank) & (column[None, :] < width)
            weights = tl.load(b + ranks[:, None] * width + column[None, :], mask=b_inside, other=0)
            sums = ((piece[:, None] * num_rows + row) * COUNT + target) * MAX_RANK + ranks[None, :]
            inside = (piece[:, None] < PIECES) & (ranks[None, :] < rank)
            shrunk = tl.sum(tl.load(buffer + sums, mask=inside, other=0.0), axis=0)
            if IS_INT8:
                shrunk *= tl.load(rank_scales + ranks, mask=ranks < rank, other=0.0)
            update += tl.sum(shrunk.to(kind).to(tl.float32)[:, None] * weights.to(tl.float32), axis=0)
        _put(total + update, added, column, width, affine, layer, column < width)


@triton.jit(do_not_specialize=["layer", "num_rows"])
def expand_tile(
    out: tl.tensor,
    buffer: tl.tensor,
    slots: tl.tensor,
    b_table: tl.tensor,
    rank_scale_table: tl.tensor,
    affine_table: tl.tensor,
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
    """The updates of one tile, in some columns of a target."""
    target, block, width, before = _target_of(tl.program_id(1), WIDTH_0, WIDTH_1, WIDTH_2, BLOCKS_0, BLOCKS_1)
    first = tl.program_id(0) * ROWS
    place, rank, address = _find(slots, first + ROWS - 1, b_table, FIRST + target)
    if rank > 0:
        kind = out.dtype.element_ty
        start = layer.to(tl.int64) * rank
        b = part_at(address, start * width, tl.int8 if IS_INT8 else kind)
        rank_scales = part_at(tl.load(rank_scale_table + place), start, tl.float32)
        row = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        column = block * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        added = out + row * WIDTH + before + column
        total = tl.load(added, mask=column < width, other=0.0).to(tl.float32)
        affine = tl.load(affine_table + place)
        update = tl.zeros((ROWS, COLUMNS), tl.float32)
        for r in range(0, rank, _RANKS):
            ranks = r + tl.arange(0, _RANKS)
            shrunk = tl.zeros((ROWS, _RANKS), tl.float32)
            for piece in range(PIECES):
                sums = ((piece * num_rows + row) * COUNT + target) * MAX_RANK + ranks[None, :]
                shrunk += tl.load(buffer + sums, mask=ranks[None, :] < rank, other=0.0)
            if IS_INT8:
                shrunk *= tl.load(rank_scales + ranks, mask=ranks < rank, other=0.0)[None, :]
            b_inside = (ranks[:, None] < rank) & (column < width)
            weights = tl.load(b + ranks[:, None] * width + column, mask=b_inside, other=0)
            update = tl.dot(shrunk.to(kind), weights.to(kind), update, input_precision="ieee")
        # Of a tile in which an adapter becomes active the first rows are the base's, and keep their bits.
        _put(total + update, added, column, width, affine, layer, (column < width) & (tl.load(slots + row) >= 0))


@triton.jit
def look_up(
    token_ids: tl.tensor,
    slots: tl.tensor,
    a_table: tl.tensor,
    buffer: tl.tensor,
    out: tl.tensor,
    COLUMN: tl.constexpr,
    MAX_RANK: tl.constexpr,
    RANKS: tl.constexpr,
    IS_INT8: tl.constexpr,
) -> None:
    """The embedding's A for the token of one row."""
    row = tl.program_id(0).to(tl.int64)
    _, rank, address = _find(slots, row, a_table, COLUMN)
    if rank > 0:
        start = tl.load(token_ids + row).to(tl.int64) * rank
        a = part_at(address, start, tl.int8 if IS_INT8 else out.dtype.element_ty)
        ranks = tl.arange(0, RANKS)
        values = tl.load(a + ranks, mask=ranks < rank, other=0)
        tl.store(buffer + row * MAX_RANK + ranks, values.to(tl.float32), mask=ranks < rank)
