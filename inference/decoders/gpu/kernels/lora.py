"""Low-rank updates of many adapters in one batch: out += (rows @ A) @ B, each row with the pair of its slot.

Decode rows come as they like: a program takes one row and the pair of its slot, which waits for memory and for
nothing else (as Punica's BGMV, arXiv 2310.18547). A prefill tile has one slot, that of its last row, and goes through
tensor cores; rows of the base may stand before those of that slot. Rows of the base have slot -1 and keep their bits;
one that comes alone, or a tile of them, costs a look at that number. An adapter with magnitudes (DoRA) or biases scales
the sum and adds to it.
How a sum is cut into pieces, and in which order they are added, depends on the width of the layer only, and there are
no atomics, so a row's bits depend on that row alone.

Where the pairs lie is told by tables of addresses, so adapters come and go beneath a captured CUDA graph. The half with
A, `shrink`, asks nothing of the product that `expand` adds to, so it can be computed beside it.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
from torch import Tensor

from inference.decoders.gpu.kernels.lora_kernels import expand_row, expand_tile, look_up, shrink_row, shrink_tile
from inference.decoders.gpu.kernels.slot_table import Group, Pair, SlotTable
from inference.tile import TILE

CHUNK: Final = 512
"""Input features that one program of a shrinking kernel sums over."""
_STEP: Final = 128
_COLUMNS: Final = {1: 256, TILE: 128}
"""Output features of one program of an expanding kernel, by length of the runs of rows."""
_EXPANDING_WARPS: Final = {1: 1, TILE: 4}
"""By length of the runs. One warp reads 256 features of 2 bytes at once, so each of its threads sums over the ranks by
itself; a tile goes through tensor cores, where it was the fastest."""


def add_embedding(out: Tensor, token_ids: Tensor, slots: Tensor, table: SlotTable, group: Group) -> None:
    """Add the updates of the embeddings of `token_ids` int32 [n] to `out` [n, hidden] in place."""
    buffer = torch.empty((1, len(out), 1, table.max_rank), dtype=torch.float32, device=out.device)
    ranks = triton.next_power_of_2(table.max_rank)
    look_up[(len(out),)](token_ids, slots, table.a, buffer, out, group.first, table.max_rank, ranks, table.is_int8)
    expand(out, buffer, slots, table, group, 0, 1)


def empty_buffer(rows: Tensor, table: SlotTable, group: Group) -> Tensor:
    """Memory for what `shrink` makes of `rows`: float32 [pieces, rows, targets, max rank]."""
    shape = (triton.cdiv(group.width_in, CHUNK), len(rows), group.count, table.max_rank)
    return torch.empty(shape, dtype=torch.float32, device=rows.device)


def shrink(
    buffer: Tensor, rows: Tensor, slots: Tensor, table: SlotTable, group: Group, layer: int, length: int
) -> None:
    """Write `rows` [n, width in] @ A to `buffer`, in pieces that are still to be added.

    `slots` are int32 [n]. Rows come in runs of `length`: 1 for decode rows, `TILE` for tiles, of one slot but for rows
    of the base, -1, before it. What no adapter asks for stays unwritten.
    """
    assert length in (1, TILE), "rows come alone or as tiles"
    assert len(rows) == len(slots) == buffer.shape[1], "each row has a slot and a place"
    pieces = len(buffer)
    kernel, sizes = (shrink_row, {}) if length == 1 else (shrink_tile, {"ROWS": length, "STEP": _STEP})
    kernel[(len(rows) // length, group.count * pieces)](
        rows,
        slots,
        table.a,
        buffer,
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


def expand(out: Tensor, buffer: Tensor, slots: Tensor, table: SlotTable, group: Group, layer: int, length: int) -> None:
    """Add the sums of `buffer`, rounded, times B to `out` [n, sum of widths], and do what is affine."""
    assert len(out) == len(slots) == buffer.shape[1], "each row has an update and a slot"
    widths, pieces = (*group.widths, 0, 0)[:3], len(buffer)
    blocks = [triton.cdiv(width, _COLUMNS[length]) for width in widths]
    own = {"PIECES_UP": triton.next_power_of_2(pieces)} if length == 1 else {"ROWS": length}
    kernel = expand_row if length == 1 else expand_tile
    kernel[(len(out) // length, sum(blocks))](
        out,
        buffer,
        slots,
        table.b,
        table.rank_scales,
        table.affine,
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
        num_warps=_EXPANDING_WARPS[length],
        **own,
    )


def add_lora_twin(
    out: Tensor, rows: Tensor, slots: Tensor, pairs: dict[int, dict[int, Pair]], group: Group, layer: int
) -> None:
    """What `shrink` and `expand` compute together, with the pairs by slot and column instead of a table.

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
                shrunk = shrunk if pair.rank_scales is None else shrunk * pair.rank_scales[layer]
                total = part.float() + shrunk.to(out.dtype).float() @ pair.b[layer].float()
                part.copy_(total if pair.affine is None else total * pair.affine[layer, 0] + pair.affine[layer, 1])
