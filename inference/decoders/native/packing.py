"""Weights in the order in which the native decoder reads them: a few inputs of 16 outputs together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from inference.adapters.packed_lora import BLOCK
from inference.model.linear import (
    PIECE,
    CodedLinear,
    Int5Linear,
    Int8Linear,
    KeptLinear,
    LateLinear,
    Linear,
    MinimaLinear,
)


@dataclass(frozen=True)
class Packed:
    """The fields of a `LinearView`; `out` counts the padding that makes whole blocks. Of 4 and 5 bits without
    `mins` the middle of the levels is zero."""

    weight: Tensor
    bits: int
    out: int
    into: int
    scales: Tensor | None = None
    mins: Tensor | None = None
    fifths: Tensor | None = None
    codes: Tensor | None = None


def pack(linear: Linear) -> Packed:
    """Pack a plain bfloat16 or float32 linear or one in few bits, some outputs at a time: passing copies are small."""
    linear = linear.read() if isinstance(linear, LateLinear) else linear
    assert isinstance(linear, KeptLinear), "the native decoder packs what a checkpoint may hold"
    rows, width = linear.weight.shape
    step = max(1, PIECE // width // BLOCK) * BLOCK
    pieces = [_pack(linear.outputs(slice(first, first + step))) for first in range(0, rows, step)]
    scales, mins, fifths = (
        _joined([getattr(piece, part) for piece in pieces]) for part in ("scales", "mins", "fifths")
    )
    weight = torch.cat([piece.weight for piece in pieces])
    out = sum(piece.out for piece in pieces)
    return _without_mins(replace(pieces[0], weight=weight, out=out, scales=scales, mins=mins, fifths=fifths))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


def _pack(linear: KeptLinear) -> Packed:
    if isinstance(linear, CodedLinear):
        codes = torch.tensor(linear.CODES, dtype=torch.int8).view(torch.uint8) ^ 128
        return replace(_pack_levels(linear.levels(), linear.scales, 4), codes=codes)
    if isinstance(linear, MinimaLinear):
        bits = 5 if isinstance(linear, Int5Linear) else 4
        packed = _pack_levels(linear.levels(), linear.scales, bits)
        return replace(packed, mins=_together(_padded(linear.mins), 1))
    weight = _padded(linear.weight)
    if isinstance(linear, Int8Linear):
        # Processors multiply bytes without a sign by bytes with one.
        scales = _together(_padded(linear.scales), 1)
        return Packed(_together(weight.view(torch.uint8) ^ 128, 4), 8, len(weight), weight.shape[1], scales)
    assert weight.dtype in (torch.bfloat16, torch.float32), "the native decoder computes in bfloat16 or float32"
    return Packed(_together(weight, 4 // weight.itemsize), weight.itemsize * 8, len(weight), weight.shape[1])


def _pack_levels(levels: Tensor, scales: Tensor, bits: int) -> Packed:
    """`levels` uint8 [out, in] below 2 ** `bits`, of which `scales` float16 [out, in / GROUP] are."""
    fours = _together(_padded(levels), 4)
    blocks, width = fours.shape[:2]
    low = fours & 15
    packed = Packed(low[:, ::2] | low[:, 1::2] << 4, bits, blocks * BLOCK, width * 4, _together(_padded(scales), 1))
    if bits == 4:
        return packed
    # Bit n of a byte is of the n-th four inputs of a group.
    places = torch.arange(8, dtype=torch.uint8)[:, None, None]
    return replace(packed, fifths=((fours >> 4).unflatten(1, (-1, 8)) << places).sum(dim=2, dtype=torch.uint8))


def _without_mins(packed: Packed) -> Packed:
    """The same without minima that put zero into the middle of the levels, as Q4_0, Q5_0 and symmetric GPTQ have them:
    the decoder knows those, and a tenth less is read."""
    scales, mins = packed.scales, packed.mins
    if scales is None or mins is None or not torch.equal(mins, scales * -(1 << packed.bits - 1)):
        return packed
    return replace(packed, mins=None)


def _together(rows: Tensor, count: int) -> Tensor:
    """[out, in] as [out / 16, in / count, 16, count]."""
    out, into = rows.shape
    return rows.view(out // BLOCK, BLOCK, into // count, count).transpose(1, 2).contiguous()


def _padded(rows: Tensor) -> Tensor:
    return functional.pad(rows, (0, 0, 0, -len(rows) % BLOCK)).contiguous()
