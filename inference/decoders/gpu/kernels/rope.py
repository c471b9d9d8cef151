"""Rotary embedding and the store into the cache in one step: queries rotate in place, keys on their way.

Positions look their angles up in a table, so they never depend on a batch.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEADS: Final = 16
"""Heads of one program."""


def rope_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, cache_slots: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Rotate the queries of `qkv` [rows, (heads + 2 * kv heads) * head_dim] in place, and store keys and values.

    `cos` and `sin` are [max positions, head_dim], `positions` and `cache_slots` int32 [rows]; a row whose slot is
    negative is padding and goes nowhere. `keys` and `values` are [blocks, block size, kv heads, head_dim].
    """
    kv_heads, dim = keys.shape[2:]
    num_heads = qkv.shape[1] // dim
    half = triton.next_power_of_2(dim // 2)
    grid = (len(qkv), triton.cdiv(num_heads, _HEADS))
    _rope_and_store[grid](qkv, cos, sin, positions, cache_slots, keys, values, num_heads, kv_heads, dim, half, _HEADS)


def rope_and_store_twin(
    qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, cache_slots: Tensor, keys: Tensor, values: Tensor
) -> None:
    """What `rope_and_store` does: in float32, rounded once."""
    kv_heads, dim = keys.shape[2:]
    heads = qkv.view(len(qkv), -1, dim)
    rotating = heads[:, :-kv_heads].to(torch.float32)
    first, second = rotating.chunk(2, dim=-1)
    rotated = rotating * cos[positions].float().unsqueeze(1)
    rotated += torch.cat((-second, first), dim=-1) * sin[positions].float().unsqueeze(1)
    heads[:, : -2 * kv_heads] = rotated[:, :-kv_heads].to(qkv.dtype)
    real = cache_slots >= 0
    keys.view(-1, kv_heads, dim)[cache_slots[real]] = rotated[real, -kv_heads:].to(keys.dtype)
    values.view(-1, kv_heads, dim)[cache_slots[real]] = heads[real, -kv_heads:]


@triton.jit
def _rope_and_store(
    qkv: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    positions: tl.tensor,
    cache_slots: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, HALF)[None, :]
    inside = (head < HEADS) & (column < DIM // 2)
    source = qkv + (row * HEADS + head) * DIM + column
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + DIM // 2, mask=inside, other=0.0).to(tl.float32)

    # The tables repeat their first half, as the two halves of a head rotate by the same angles.
    angle = tl.load(positions + row).to(tl.int64) * DIM + column
    c = tl.load(cos + angle, mask=column < DIM // 2, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=column < DIM // 2, other=0.0).to(tl.float32)
    rotates = head < HEADS - KV_HEADS
    kind = qkv.dtype.element_ty
    new_first = tl.where(rotates, first * c - second * s, first).to(kind)
    new_second = tl.where(rotates, second * c + first * s, second).to(kind)

    is_query = inside & (head < HEADS - 2 * KV_HEADS)
    tl.store(source, new_first, mask=is_query)
    tl.store(source + DIM // 2, new_second, mask=is_query)
    cache_slot = tl.load(cache_slots + row).to(tl.int64)
    is_key = inside & (cache_slot >= 0) & rotates & (head >= HEADS - 2 * KV_HEADS)
    target = (cache_slot * KV_HEADS + head - (HEADS - 2 * KV_HEADS)) * DIM + column
    tl.store(keys + target, new_first, mask=is_key)
    tl.store(keys + target + DIM // 2, new_second, mask=is_key)
    is_value = inside & (cache_slot >= 0) & (head >= HEADS - KV_HEADS)
    tl.store(values + target - KV_HEADS * DIM, new_first, mask=is_value)
    tl.store(values + target - KV_HEADS * DIM + DIM // 2, new_second, mask=is_value)
