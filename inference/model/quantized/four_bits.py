"""GPTQ (Frantar et al., 2023) and AWQ (Lin et al., 2023): whole numbers from 0 to 15, a scale and a zero for a group.

A weight is (level - zero) * scale: level * scale and a minimum, which is rounded to float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.model.linear import GROUP, PIECE, Int4Linear

_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs a nibble of AWQ's words is."""


@dataclass(frozen=True)
class Packed:
    """A weight [out, in]: `levels` uint8 [out, in]; `scales` and `zeros` float32 [groups, out]. Where the inputs are in
    another order than their groups, `groups` int64 [in] is which each belongs to (`desc_act` of GPTQ)."""

    levels: Tensor
    scales: Tensor
    zeros: Tensor
    groups: Tensor | None = None

    def linear(self) -> Int4Linear:
        """Its groups as ours, where they follow one another."""
        assert self.groups is None, "our groups are of inputs beside each other"
        repeats = self.levels.shape[1] // GROUP // len(self.scales)
        mins = -self.scales * self.zeros
        return Int4Linear.of_levels(self.levels, *(_by_group(part, repeats) for part in (self.scales, mins)))

    def dequantized(self) -> Iterator[Tensor]:
        """float32 [rows, in], some rows at a time."""
        width = self.levels.shape[1]
        groups = torch.arange(width) * len(self.scales) // width if self.groups is None else self.groups
        step = max(1, PIECE // width)
        for first in range(0, len(self.levels), step):
            scales, zeros = (part[groups, first : first + step].t() for part in (self.scales, self.zeros))
            yield (self.levels[first : first + step] - zeros) * scales


def gptq(qweight: Tensor, qzeros: Tensor, scales: Tensor, zero_offset: int, groups: Tensor | None) -> Packed:
    """`qweight` int32 [in / 8, out] holds eight inputs a word, `qzeros` int32 [groups, out / 8] eight outputs; `scales`
    [groups, out]."""
    words, out = qweight.shape
    levels = _nibbles(qweight).permute(1, 0, 2).reshape(out, words * 8)
    return Packed(levels, scales.float(), (_nibbles(qzeros).flatten(1) + zero_offset).float(), groups)


def awq(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Packed:
    """`qweight` int32 [in, out / 8] and `qzeros` int32 [groups, out / 8] hold eight outputs a word; `scales`
    [groups, out]."""
    levels, zeros = (_nibbles(words)[..., _inverse(_AWQ_ORDER)].flatten(1) for words in (qweight, qzeros))
    return Packed(levels.t().contiguous(), scales.float(), zeros.float())


def _by_group(values: Tensor, repeats: int) -> Tensor:
    """[groups, out] as float16 [out, in / GROUP]."""
    return values.to(torch.float16).t().repeat_interleave(repeats, dim=1)


def _nibbles(words: Tensor) -> Tensor:
    """int32 [n, m] as uint8 [n, m, 8], the lowest first."""
    octets = words.contiguous().view(torch.uint8).view(*words.shape, 4)
    return torch.stack((octets & 15, octets >> 4), dim=-1).flatten(2)


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
