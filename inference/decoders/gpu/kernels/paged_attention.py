"""Attention over the paged cache: decode rows by splits of their context, prefill tiles whole.

The keys of a row are walked in steps from the beginning of the context, a decode row's in splits of `SPLIT` tokens
whose results, where there are several, are merged in order. Where steps and splits lie depends on a row's position and
on the width of heads only, so its bits do too. Positions past a row add exact zeros, and nothing
unwritten is ever read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.activation import tanh
from inference.tile import TILE

SPLIT: Final = 512
"""Tokens of the context that one program of a decode row walks."""
_KEYS: Final = 64
"""Keys of one step, or fewer where heads are so wide that these would not fit into the memory of a block."""
_MOST_OF_KEYS: Final = _KEYS * 128
"""Numbers of the keys of one step."""
_MOST_NUMBERS: Final = 128 * 128
"""Of the queries of one program: as many as its threads have registers for, beside the scores."""
_LEAST: Final = 16
"""Queries, and numbers of a head, that a tensor core takes."""
_LOG2_E: Final = math.log2(math.e)


@dataclass(frozen=True)
class Scores:
    """How scores are made of queries and keys: times `scale`, 0 for one over the root of the head's width, and bent to
    stay below `cap`, 0 for none. `window` counts the tokens that a row may look back to, itself included."""

    window: int | None = None
    scale: float = 0.0
    cap: float = 0.0


@dataclass(frozen=True)
class Segments:
    """Runs of rows that attend together: `length` rows each (1 for decodes, `TILE` for tiles), from row `first` on.

    `starts` int32 [n] is the position of each run's first row, `contexts` int32 [n] how many tokens the cache
    holds for it once this pass has written its own (0 for padding, which attends to nothing and gets zeros),
    `tables` int32 [n, blocks] names the blocks. `splits` is how many of `SPLIT` tokens the longest may have.
    """

    first: int
    length: int
    starts: Tensor
    contexts: Tensor
    tables: Tensor
    splits: int = 1

    def __post_init__(self) -> None:
        assert self.length in (1, TILE), "a segment is a decode row or a tile"


def attend(qkv: Tensor, keys: Tensor, values: Tensor, segments: Segments, how: Scores, out: Tensor) -> None:
    """Write what the queries of `segments` see to their rows of `out` [rows, heads * head_dim].

    `qkv` is [rows, (heads + 2 * kv heads) * head_dim], `keys` and `values` [blocks, block size, kv heads, head_dim].
    """
    if not len(segments.starts):
        return
    shape = _shape(out, keys, segments.length)
    # What one program walks it can also finish: the same steps, the same bits.
    count, splits = len(segments.starts), segments.splits if segments.length == 1 and segments.splits > 1 else 0
    scratch = _scratch(out, count, splits, shape["HEADS"], shape["BLOCK_DIM"])
    scale, window = how.scale or 1 / math.sqrt(shape["DIM"]), how.window or 0
    _attend[(count, shape["HEADS"] // shape["GROUP"] * shape["CHUNKS"], max(splits, 1))](
        qkv,
        out,
        *scratch,
        keys,
        values,
        segments.tables,
        segments.starts,
        segments.contexts,
        segments.first,
        segments.tables.shape[1],
        qkv.shape[1],
        # Weights are powers of 2. A capped score is that only once it was bent.
        scale / how.cap if how.cap else scale * _LOG2_E,
        how.cap * _LOG2_E,
        window,
        **shape,
        IS_CAPPED=how.cap != 0,
        SPLIT=SPLIT if splits else 0,
        num_warps=4 if segments.length == 1 else 8,
    )
    if splits:
        size = {name: shape[name] for name in ("HEADS", "DIM", "BLOCK_DIM")}
        bounds = (segments.starts, segments.contexts, segments.first, splits, window)
        _merge[(count, shape["HEADS"])](out, *scratch, *bounds, **size, SPLIT=SPLIT, num_warps=2)


def attend_twin(qkv: Tensor, keys: Tensor, values: Tensor, segments: Segments, how: Scores, out: Tensor) -> None:
    """What `attend` computes: the softmax in float32, rounded once."""
    (block_size, kv_heads, dim), heads = keys.shape[1:], out.shape[1] // keys.shape[3]
    for index, context in enumerate(segments.contexts.tolist()):
        rows = slice(segments.first + index * segments.length, segments.first + (index + 1) * segments.length)
        if not context:
            out[rows] = 0
            continue
        blocks = segments.tables[index, : -(-context // block_size)].long()
        seen_keys = keys[blocks].flatten(0, 1)[:context].float().repeat_interleave(heads // kv_heads, dim=1)
        seen_values = values[blocks].flatten(0, 1)[:context].float().repeat_interleave(heads // kv_heads, dim=1)
        queries = qkv[rows, : heads * dim].view(-1, heads, dim).float()
        distance = int(segments.starts[index]) + torch.arange(segments.length)[:, None] - torch.arange(context)[None, :]
        is_seen = (distance >= 0) & (distance < (how.window or context + TILE))
        scores = torch.einsum("qhd,khd->hqk", queries, seen_keys) * (how.scale or 1 / math.sqrt(dim))
        scores = how.cap * torch.tanh(scores / how.cap) if how.cap else scores
        weights = scores.masked_fill(~is_seen.to(scores.device), -math.inf).softmax(-1).nan_to_num(0.0)
        out[rows] = torch.einsum("hqk,khd->qhd", weights, seen_values).flatten(1).to(out.dtype)


def _shape(out: Tensor, keys: Tensor, length: int) -> dict[str, int]:
    """The sizes that a kernel is compiled for."""
    block_size, kv_heads, dim = keys.shape[1:]
    heads = out.shape[1] // dim
    group, block_dim = heads // kv_heads, max(_LEAST, triton.next_power_of_2(dim))
    queries = min(max(_LEAST, triton.next_power_of_2(length * group)), _MOST_NUMBERS // block_dim)
    return {
        "HEADS": heads,
        "GROUP": group,
        "DIM": dim,
        "BLOCK_DIM": block_dim,
        "BLOCK_SIZE": block_size,
        "LENGTH": length,
        # The queries of one key head, over all rows of the segment, in as many programs as they need.
        "QUERIES": queries,
        "CHUNKS": triton.cdiv(length * group, queries),
        "KEYS": min(_KEYS, _MOST_OF_KEYS // block_dim),
    }


def _scratch(out: Tensor, count: int, splits: int, heads: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every split of every decode row: the unscaled sum, its largest score, its sum of weights."""
    rows = count * splits * heads
    memory = torch.empty(rows * (dim + 2), dtype=torch.float32, device=out.device)
    sums, maxima, totals = torch.split(memory, [rows * dim, rows, rows])
    return sums, maxima, totals


@triton.jit(do_not_specialize=["first_row", "table_width", "window"])
def _attend(
    qkv: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    maxima: tl.tensor,
    totals: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    tables: tl.tensor,
    starts: tl.tensor,
    contexts: tl.tensor,
    first_row: tl.tensor,
    table_width: tl.tensor,
    qkv_width: tl.tensor,
    scale: tl.tensor,
    cap: tl.tensor,
    window: tl.tensor,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LENGTH: tl.constexpr,
    QUERIES: tl.constexpr,
    CHUNKS: tl.constexpr,
    KEYS: tl.constexpr,
    IS_CAPPED: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    segment, split = tl.program_id(0), tl.program_id(2)
    kv_head, chunk = tl.program_id(1) // CHUNKS, tl.program_id(1) % CHUNKS
    context = tl.load(contexts + segment)
    start = tl.load(starts + segment)
    query = chunk * QUERIES + tl.arange(0, QUERIES)
    row = (first_row + segment * LENGTH + query // GROUP).to(tl.int64)
    head = kv_head * GROUP + query % GROUP
    position = start + query // GROUP
    is_query = query < LENGTH * GROUP
    dims = tl.arange(0, BLOCK_DIM)
    source = qkv + row[:, None] * qkv_width + head[:, None] * DIM + dims[None, :]
    q = tl.load(source, mask=is_query[:, None] & (dims[None, :] < DIM), other=0.0)

    low, high = 0, context
    if window > 0:
        low = tl.maximum(start - window + 1, 0) // KEYS * KEYS
    if SPLIT > 0:
        low = tl.maximum(low, split * SPLIT)
        high = tl.minimum(high, (split + 1) * SPLIT)

    maximum = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    output = tl.zeros((QUERIES, BLOCK_DIM), tl.float32)
    for at in range(low, high, KEYS):
        column = at + tl.arange(0, KEYS)
        is_written = column < context
        block = tl.load(tables + segment * table_width + column // BLOCK_SIZE, mask=is_written, other=0)
        token = block.to(tl.int64) * BLOCK_SIZE + column % BLOCK_SIZE
        place = (token * (HEADS // GROUP) + kv_head) * DIM
        k = tl.load(keys + place[None, :] + dims[:, None], mask=is_written[None, :] & (dims[:, None] < DIM), other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        if IS_CAPPED:
            scores = tanh(scores) * cap
        distance = position[:, None] - column[None, :]
        is_seen = (distance >= 0) & is_written[None, :]
        if window > 0:
            is_seen = is_seen & (distance < window)
        scores = tl.where(is_seen, scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        # A row that has seen nothing yet has no largest score to subtract.
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        weights = tl.exp2(scores - shift[:, None])
        rescale = tl.exp2(maximum - shift)
        v = tl.load(
            values + place[:, None] + dims[None, :], mask=is_written[:, None] & (dims[None, :] < DIM), other=0.0
        )
        total = total * rescale + tl.sum(weights, axis=1)
        output = tl.dot(weights.to(v.dtype), v, output * rescale[:, None], input_precision="ieee")
        maximum = new_maximum

    if SPLIT > 0:
        if low < high:
            part = (segment.to(tl.int64) * tl.num_programs(2) + split) * HEADS + head
            tl.store(sums + part[:, None] * BLOCK_DIM + dims[None, :], output, mask=is_query[:, None])
            tl.store(maxima + part, maximum, mask=is_query)
            tl.store(totals + part, total, mask=is_query)
    else:
        output = output / tl.where(total == 0.0, 1.0, total)[:, None]
        target = out + (row[:, None] * HEADS + head[:, None]) * DIM + dims[None, :]
        tl.store(target, output.to(out.dtype.element_ty), mask=is_query[:, None] & (dims[None, :] < DIM))


@triton.jit(do_not_specialize=["first_row", "num_splits", "window"])
def _merge(
    out: tl.tensor,
    sums: tl.tensor,
    maxima: tl.tensor,
    totals: tl.tensor,
    starts: tl.tensor,
    contexts: tl.tensor,
    first_row: tl.tensor,
    num_splits: tl.tensor,
    window: tl.tensor,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    segment, head = tl.program_id(0), tl.program_id(1)
    context = tl.load(contexts + segment)
    dims = tl.arange(0, BLOCK_DIM)
    first = 0
    if window > 0:
        first = tl.maximum(tl.load(starts + segment) - window + 1, 0) // SPLIT
    maximum = float("-inf")
    total = 0.0
    output = tl.zeros((BLOCK_DIM,), tl.float32)
    for split in range(first, (context + SPLIT - 1) // SPLIT):
        part = (segment.to(tl.int64) * num_splits + split) * HEADS + head
        split_maximum = tl.load(maxima + part)
        new_maximum = tl.maximum(maximum, split_maximum)
        rescale, weight = tl.exp2(maximum - new_maximum), tl.exp2(split_maximum - new_maximum)
        total = total * rescale + tl.load(totals + part) * weight
        output = output * rescale + tl.load(sums + part * BLOCK_DIM + dims) * weight
        maximum = new_maximum
    output = output / tl.where(total == 0.0, 1.0, total)
    row = (first_row + segment).to(tl.int64)
    tl.store(out + (row * HEADS + head) * DIM + dims, output.to(out.dtype.element_ty), mask=dims < DIM)
