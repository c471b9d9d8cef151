"""Weights in the order in which the native decoder reads them: a few inputs of 16 outputs together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.adapters.packed_lora import BLOCK
from inference.model.linear import Int4Linear, Int8Linear, Linear, PlainLinear


@dataclass(frozen=True)
class Packed:
    """The fields of a `LinearView`; `out` counts the padding that makes whole blocks."""

    weight: Tensor
    bits: int
    out: int
    into: int
    scales: Tensor | None = None
    group_scales: Tensor | None = None
    group_mins: Tensor | None = None


def pack(linear: Linear) -> Packed:
    """Pack a plain bfloat16, an int8 or an int4 linear."""
    if isinstance(linear, Int4Linear):
        weight, into = _padded(linear.weight), linear.weight.shape[1] * 2
        scales, mins = (_by_block(_padded(of_groups)) for of_groups in (linear.scales, linear.mins))
        return Packed(_by_block(weight), 4, len(weight), into, group_scales=scales, group_mins=mins)
    assert isinstance(linear, Int8Linear | PlainLinear), "the native decoder packs bfloat16, int8 and int4"
    weight = _padded(linear.weight)
    out, into = weight.shape
    together = 4 // weight.itemsize
    packed = weight.view(out // BLOCK, BLOCK, into // together, together).transpose(1, 2).contiguous()
    if isinstance(linear, Int8Linear):
        return Packed(packed, 8, out, into, scales=_padded(linear.scales[:, None])[:, 0].contiguous())
    assert weight.dtype == torch.bfloat16, "the native decoder computes in bfloat16"
    return Packed(packed, 16, out, into)


def _padded(rows: Tensor) -> Tensor:
    return functional.pad(rows, (0, 0, 0, -len(rows) % BLOCK)).contiguous()


def _by_block(rows: Tensor) -> Tensor:
    """[out, n] as [out / 16][n][16]."""
    out, width = rows.shape
    return rows.view(out // BLOCK, BLOCK, width).transpose(1, 2).contiguous()
