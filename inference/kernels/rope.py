"""Rotary embedding and the way into the cache in one step: queries turn in place, keys turn on their way.

Positions look their angles up in a table, so they never depend on a batch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def rotate_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, places: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Turn the queries of `qkv` [rows, (heads + 2 * kv heads) * head_dim] in place and put keys and values away.

    `cos` and `sin` are [max positions, head_dim], `positions` and `places` int32 [rows]; a row whose place is
    negative is padding and goes nowhere. `keys` and `values` are [blocks, block size, kv heads, head_dim].
    """
    kv_heads, dim = keys.shape[2:]
    num_heads = qkv.shape[1] // dim
    half = triton.next_power_of_2(dim // 2)
    grid = (len(qkv), num_heads)
    _rotate_and_store[grid](qkv, cos, sin, positions, places, keys, values, num_heads, kv_heads, dim, half, num_warps=1)


def rotate_and_store_twin(
    qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, places: Tensor, keys: Tensor, values: Tensor
) -> None:
    """What `rotate_and_store` does: in float32, rounded once."""
    kv_heads, dim = keys.shape[2:]
    heads = qkv.view(len(qkv), -1, dim)
    turning = heads[:, :-kv_heads].to(torch.float32)
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos[positions].float().unsqueeze(1)
    turned += torch.cat((-second, first), dim=-1) * sin[positions].float().unsqueeze(1)
    heads[:, : -2 * kv_heads] = turned[:, :-kv_heads].to(qkv.dtype)
    real = places >= 0
    keys.view(-1, kv_heads, dim)[places[real]] = turned[real, -kv_heads:].to(keys.dtype)
    values.view(-1, kv_heads, dim)[places[real]] = heads[real, -kv_heads:]


@triton.jit
def _rotate_and_store(
    qkv: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    positions: tl.tensor,
    places: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tl.load(places + row).to(tl.int64)
    columns = tl.arange(0, HALF)
    inside = columns < DIM // 2
    source = qkv + (row * HEADS + head) * DIM + columns
    first = tl.load(source, mask=inside, other=0.0)
    second = tl.load(source + DIM // 2, mask=inside, other=0.0)
    if head < HEADS - KV_HEADS:
        angle = tl.load(positions + row).to(tl.int64) * DIM + columns
        # The tables repeat their first half, as the two halves of a head turn by the same angles.
        c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        turned = first.to(tl.float32) * c - second.to(tl.float32) * s
        second = (second.to(tl.float32) * c + first.to(tl.float32) * s).to(qkv.dtype.element_ty)
        first = turned.to(qkv.dtype.element_ty)
    if head < HEADS - 2 * KV_HEADS:
        tl.store(source, first, mask=inside)
        tl.store(source + DIM // 2, second, mask=inside)
    elif place >= 0:
        target = (place * KV_HEADS + (head - (HEADS - 2 * KV_HEADS)) % KV_HEADS) * DIM + columns
        if head < HEADS - KV_HEADS:
            tl.store(keys + target, first, mask=inside)
            tl.store(keys + target + DIM // 2, second, mask=inside)
        else:
            tl.store(values + target, first, mask=inside)
            tl.store(values + target + DIM // 2, second, mask=inside)
