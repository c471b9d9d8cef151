"""What is done to queries, keys and values between their product and attention, in one step: they are biased, normed,
turned (Su et al., 2021), and keys and values stored into the cache. Queries stay in place.

Positions look their angles up in a table, so they never depend on a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.biased import load_biased
from inference.decoders.gpu.kernels.norm import SlotBiases, no_shift, scaled, slot_bias
from inference.decoders.gpu.kernels.slot_table import INDEX
from inference.decoders.torch.norm import Shift, norm
from inference.model.rotary import apply_rope
from inference.model.spec import Norm

_HEADS: Final = 16
"""Heads of one program."""
_QUERIES: tl.constexpr = tl.constexpr(INDEX["q_norm"])
_KEYS: tl.constexpr = tl.constexpr(INDEX["k_norm"])


@dataclass(frozen=True)
class Heads:
    """What a layer does to its heads of `dim` numbers each: queries, keys and values behind one another.

    `bias` is [heads * dim]. `norm_weight` is [heads that turn * dim], or of a LayerNorm weight and bias [2, the same];
    each head is normed by itself or, where `is_whole`, all queries at once and all keys. `cos` and `sin`
    [max positions, rotary dim / 2] turn as many numbers of a head, those of one half with those of the other or, where
    `is_interleaved`, each even one with the next. What is None is not done.
    """

    dim: int
    bias: Tensor | None = None
    norm_weight: Tensor | None = None
    norm: Norm = Norm.RMS
    eps: float = 0.0
    is_whole: bool = False
    cos: Tensor | None = None
    sin: Tensor | None = None
    is_interleaved: bool = False


def rope_and_store(
    qkv: Tensor,
    how: Heads,
    positions: Tensor,
    cache_slots: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_biases: SlotBiases | None = None,
) -> None:
    """Do `how` to `qkv` [rows, heads * dim]: queries in place, and keys and values where they are stored.

    Where heads are normed, adapters may have biases of these norms, of queries and of keys, in the columns of both.

    `positions` and `cache_slots` are int32 [rows]; a row whose slot is negative is padding and goes nowhere. `keys` and
    `values` are [blocks, block size, kv heads, dim].
    """
    kv_heads, dim = keys.shape[2], how.dim
    heads = qkv.shape[1] // dim
    # Where nothing turns, a head is two halves that stay as they are.
    pairs = dim // 2 if how.cos is None else how.cos.shape[1]
    # All of a row has to be there before anything of it is stored, where it is normed whole.
    block = triton.next_power_of_2(heads) if how.is_whole else _HEADS
    _rope_and_store[(len(qkv), triton.cdiv(heads, block))](
        qkv,
        how.bias,
        how.norm_weight,
        how.cos,
        how.sin,
        positions,
        cache_slots,
        keys,
        values,
        how.eps,
        *((None, None, 0) if slot_biases is None else (slot_biases.slots, slot_biases.addresses, slot_biases.layer)),
        IS_LAYER=how.norm is Norm.LAYER,
        IS_WHOLE=how.is_whole,
        IS_INTERLEAVED=how.is_interleaved and how.cos is not None,
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        PAIRS=pairs,
        PAIRS_UP=triton.next_power_of_2(pairs),
        REST_UP=triton.next_power_of_2(dim - 2 * pairs) if dim > 2 * pairs else 0,
        BLOCK=block,
        num_warps=4 if block <= _HEADS else 16,
    )


def rope_and_store_twin(
    qkv: Tensor,
    how: Heads,
    positions: Tensor,
    cache_slots: Tensor,
    keys: Tensor,
    values: Tensor,
    shifts: tuple[Shift, Shift] = (no_shift, no_shift),
) -> None:
    """What `rope_and_store` does: in float32, rounded once. `shifts` add adapters' biases to queries and keys."""
    kv_heads, dim = keys.shape[2], how.dim
    wide = qkv.float() if how.bias is None else qkv.float() + how.bias
    heads = wide.view(len(qkv), -1, dim)
    turning, rest = heads[:, :-kv_heads], heads[:, -kv_heads:]
    if how.norm_weight is not None:
        turning = _normed_twin(turning, how, turning.shape[1] - kv_heads, shifts)
    if how.cos is not None and how.sin is not None:
        cos, sin = (_of_each_number(table[positions].float(), how.is_interleaved) for table in (how.cos, how.sin))
        turning = apply_rope(turning, cos, sin, how.is_interleaved)
    queries = turning[:, :-kv_heads].flatten(1)
    qkv[:, : queries.shape[1]] = queries.to(qkv.dtype)
    real = cache_slots >= 0
    for cache, part in ((keys, turning[:, -kv_heads:]), (values, rest)):
        cache.view(-1, kv_heads, dim)[cache_slots[real]] = part[real].to(cache.dtype)


def _of_each_number(of_pairs: Tensor, is_interleaved: bool) -> Tensor:
    """[rows, pairs] as [rows, 1, numbers that turn]."""
    numbers = of_pairs.repeat_interleave(2, dim=-1) if is_interleaved else torch.cat((of_pairs, of_pairs), dim=-1)
    return numbers.unsqueeze(1)


def _normed_twin(heads: Tensor, how: Heads, num_queries: int, shifts: tuple[Shift, Shift]) -> Tensor:
    assert how.norm_weight is not None, "it is asked for where there is one"
    weight, parts = how.norm_weight.unflatten(-1, (-1, how.dim)), []
    for part, shift in zip((slice(0, num_queries), slice(num_queries, None)), shifts, strict=True):
        own, rows = weight[..., part, :], heads[:, part]
        if how.is_whole:
            parts.append(norm(how.norm, rows.flatten(1), own.flatten(-2), how.eps, shift).view_as(rows))
        else:
            parts.append(norm(how.norm, rows, own, how.eps, shift))
    return torch.cat(parts, dim=1)


@triton.jit
def _store(
    part: tl.tensor,
    source: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    slot: tl.tensor,
    head: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
) -> None:
    """Put some columns of heads where they belong: queries back, keys and values into the cache."""
    part = part.to(source.dtype.element_ty)
    tl.store(source + head * DIM + column, part, mask=inside & (head < HEADS - 2 * KV_HEADS))
    target = (slot * KV_HEADS + head - (HEADS - 2 * KV_HEADS)) * DIM + column
    is_kept = inside & (slot >= 0)
    tl.store(keys + target, part, mask=is_kept & (head >= HEADS - 2 * KV_HEADS) & (head < HEADS - KV_HEADS))
    tl.store(values + target - KV_HEADS * DIM, part, mask=is_kept & (head >= HEADS - KV_HEADS))


@triton.jit
def _sums(
    parts: tl.tensor, head: tl.tensor, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, IS_WHOLE: tl.constexpr
) -> tl.tensor:
    """Of the sums of heads [heads, 1], those over what each is normed with."""
    if not IS_WHOLE:
        return parts
    is_query = head < HEADS - 2 * KV_HEADS
    is_key = (head < HEADS - KV_HEADS) & (head >= HEADS - 2 * KV_HEADS)
    of_queries = tl.sum(tl.where(is_query, parts, 0.0), axis=0, keep_dims=True)
    return tl.where(is_query, of_queries, tl.sum(tl.where(is_key, parts, 0.0), axis=0, keep_dims=True))


@triton.jit(do_not_specialize=["layer"])
def _rope_and_store(
    qkv: tl.tensor,
    bias: tl.tensor,
    norm_weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    positions: tl.tensor,
    cache_slots: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    eps: tl.tensor,
    slots: tl.tensor,
    addresses: tl.tensor,
    layer: tl.tensor,
    IS_LAYER: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAIRS: tl.constexpr,
    PAIRS_UP: tl.constexpr,
    REST_UP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    source = qkv + row * HEADS * DIM
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    pair = tl.arange(0, PAIRS_UP)[None, :]
    is_pair = (head < HEADS) & (pair < PAIRS)
    column = pair * 2 if IS_INTERLEAVED else pair
    other: tl.constexpr = 1 if IS_INTERLEAVED else PAIRS
    first = load_biased(source, bias, head * DIM + column, is_pair)
    second = load_biased(source, bias, head * DIM + column + other, is_pair)
    rest_column = 2 * PAIRS + tl.arange(0, REST_UP if REST_UP else 1)[None, :]
    is_rest = (head < HEADS) & (rest_column < DIM)
    if REST_UP:
        rest = load_biased(source, bias, head * DIM + rest_column, is_rest)

    rotates = head < HEADS - KV_HEADS
    if norm_weight is not None:
        count = DIM * (tl.where(head < HEADS - 2 * KV_HEADS, HEADS - 2 * KV_HEADS, KV_HEADS) if IS_WHOLE else 1)
        if IS_LAYER:
            total = tl.sum(first + second, axis=1, keep_dims=True)
            if REST_UP:
                total += tl.sum(rest, axis=1, keep_dims=True)
            mean = tl.where(rotates, _sums(total, head, HEADS, KV_HEADS, IS_WHOLE) / count, 0.0)
            first = tl.where(is_pair, first - mean, 0.0)
            second = tl.where(is_pair, second - mean, 0.0)
            if REST_UP:
                rest = tl.where(is_rest, rest - mean, 0.0)
        squares = tl.sum(first * first + second * second, axis=1, keep_dims=True)
        if REST_UP:
            squares += tl.sum(rest * rest, axis=1, keep_dims=True)
        scale = tl.rsqrt(_sums(squares, head, HEADS, KV_HEADS, IS_WHOLE) / count + eps)
        weight = norm_weight + head * DIM
        beyond: tl.constexpr = (HEADS - KV_HEADS) * DIM
        normed = scaled(first, scale, weight + column, weight + beyond + column, is_pair & rotates, IS_LAYER)
        first = tl.where(rotates, normed, first)
        at = weight + column + other
        normed = scaled(second, scale, at, at + beyond, is_pair & rotates, IS_LAYER)
        second = tl.where(rotates, normed, second)
        if REST_UP:
            at = weight + rest_column
            rest = tl.where(rotates, scaled(rest, scale, at, at + beyond, is_rest & rotates, IS_LAYER), rest)
        if slots is not None:
            is_query = head < HEADS - 2 * KV_HEADS
            target = tl.where(is_query, _QUERIES, _KEYS)
            number = tl.where(is_query, head, head - (HEADS - 2 * KV_HEADS))
            count = tl.where(is_query, HEADS - 2 * KV_HEADS, KV_HEADS)
            own = (layer.to(tl.int64) * count + number) * DIM
            first += slot_bias(slots, addresses, row, target, own + column, is_pair & rotates)
            second += slot_bias(slots, addresses, row, target, own + column + other, is_pair & rotates)
            if REST_UP:
                rest += slot_bias(slots, addresses, row, target, own + rest_column, is_rest & rotates)

    if cos is not None:
        angle = tl.load(positions + row).to(tl.int64) * PAIRS + pair
        c = tl.load(cos + angle, mask=pair < PAIRS, other=0.0).to(tl.float32)
        s = tl.load(sin + angle, mask=pair < PAIRS, other=0.0).to(tl.float32)
        turned = tl.where(rotates, first * c - second * s, first)
        second = tl.where(rotates, second * c + first * s, second)
        first = turned

    slot = tl.load(cache_slots + row).to(tl.int64)
    _store(first, source, keys, values, slot, head, column, is_pair, HEADS, KV_HEADS, DIM)
    _store(second, source, keys, values, slot, head, column + other, is_pair, HEADS, KV_HEADS, DIM)
    if REST_UP:
        _store(rest, source, keys, values, slot, head, rest_column, is_rest, HEADS, KV_HEADS, DIM)
