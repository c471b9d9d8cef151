"""Weights in the order in which the native decoder reads them: a few inputs of 16 outputs together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from inference.adapters.packed_lora import BLOCK
from inference.model.linear import PIECE, Int4Linear, Int8Linear, KeptLinear, LateLinear, Linear


@dataclass(frozen=True)
class Packed:
    """The fields of a `LinearView`; `out` counts the padding that makes whole blocks. Of 4 bits without `mins` the
    minima are eight levels below zero."""

    weight: Tensor
    bits: int
    out: int
    into: int
    scales: Tensor | None = None
    mins: Tensor | None = None


def pack(linear: Linear) -> Packed:
    """Pack a plain bfloat16 or float32, an int8 or an int4 linear, some outputs at a time: passing copies are small."""
    linear = linear.read() if isinstance(linear, LateLinear) else linear
    assert isinstance(linear, KeptLinear), "the native decoder packs bfloat16, float32, int8 and int4"
    rows, width = linear.weight.shape
    step = max(1, PIECE // width // BLOCK) * BLOCK
    pieces = [_pack(linear.outputs(slice(first, first + step))) for first in range(0, rows, step)]
    scales, mins = (_joined([getattr(piece, part) for piece in pieces]) for part in ("scales", "mins"))
    weight = torch.cat([piece.weight for piece in pieces])
    out = sum(piece.out for piece in pieces)
    return _without_mins(Packed(weight, pieces[0].bits, out, pieces[0].into, scales, mins))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


def _pack(linear: KeptLinear) -> Packed:
    if isinstance(linear, Int4Linear):
        return _pack_int4(linear)
    weight = _padded(linear.weight)
    if isinstance(linear, Int8Linear):
        # Processors multiply bytes without a sign by bytes with one.
        scales = _together(_padded(linear.scales), 1)
        return Packed(_together(weight.view(torch.uint8) ^ 128, 4), 8, len(weight), weight.shape[1], scales)
    assert weight.dtype in (torch.bfloat16, torch.float32), "the native decoder computes in bfloat16 or float32"
    return Packed(_together(weight, 4 // weight.itemsize), weight.itemsize * 8, len(weight), weight.shape[1])


def _pack_int4(linear: Int4Linear) -> Packed:
    levels = _together(_padded(linear.levels()), 4)
    out, into = levels.shape[0] * BLOCK, levels.shape[1] * 4
    scales, mins = (_together(_padded(of_groups), 1) for of_groups in (linear.scales, linear.mins))
    return Packed(levels[:, ::2] | levels[:, 1::2] << 4, 4, out, into, scales, mins)


def _without_mins(packed: Packed) -> Packed:
    """The same without minima that are eight levels below zero, as Q4_0 and symmetric GPTQ have them: the decoder knows
    those, and a tenth less is read."""
    scales, mins = packed.scales, packed.mins
    if scales is None or mins is None or not torch.equal(mins, scales * -8):
        return packed
    return replace(packed, mins=None)


def _together(rows: Tensor, count: int) -> Tensor:
    """[out, in] as [out / 16, in / count, 16, count]."""
    out, into = rows.shape
    return rows.view(out // BLOCK, BLOCK, into // count, count).transpose(1, 2).contiguous()


def _padded(rows: Tensor) -> Tensor:
    return functional.pad(rows, (0, 0, 0, -len(rows) % BLOCK)).contiguous()
