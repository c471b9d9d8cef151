"""GPTQ (Frantar et al., 2023) and AWQ (Lin et al., 2023): whole numbers from 0 to 15, a scale and a zero for a group.

A weight is (level - zero) * scale: level * scale and a minimum, which is rounded to float16.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from inference.model.linear import GROUP, Int4Linear

_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs a nibble of AWQ's words is."""


def gptq_linear(qweight: Tensor, qzeros: Tensor, scales: Tensor, zero_offset: int) -> Int4Linear:
    """`qweight` int32 [in / 8, out] holds eight inputs a word, `qzeros` int32 [groups, out / 8] eight outputs; `scales`
    [groups, out]."""
    words, out = qweight.shape
    levels = _nibbles(qweight).permute(1, 0, 2).reshape(out, words * 8)
    return _linear(levels, scales, _nibbles(qzeros).flatten(1) + zero_offset)


def awq_linear(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Int4Linear:
    """`qweight` int32 [in, out / 8] and `qzeros` int32 [groups, out / 8] hold eight outputs a word; `scales`
    [groups, out]."""
    levels, zeros = (_nibbles(words)[..., _inverse(_AWQ_ORDER)].flatten(1) for words in (qweight, qzeros))
    return _linear(levels.t().contiguous(), scales, zeros)


def _linear(levels: Tensor, scales: Tensor, zeros: Tensor) -> Int4Linear:
    """`levels` uint8 [out, in]; `scales` and `zeros` [groups, out]."""
    repeats = levels.shape[1] // GROUP // len(scales)
    steps = scales.to(torch.float32)
    mins = -steps * zeros
    return Int4Linear.of_levels(levels, *(_by_group(part, repeats) for part in (steps, mins)))


def _by_group(values: Tensor, repeats: int) -> Tensor:
    """[groups, out] as float16 [out, in / GROUP]."""
    return values.to(torch.float16).t().repeat_interleave(repeats, dim=1)


def _nibbles(words: Tensor) -> Tensor:
    """int32 [n, m] as uint8 [n, m, 8], the lowest first."""
    octets = words.contiguous().view(torch.uint8).view(*words.shape, 4)
    return torch.stack((octets & 15, octets >> 4), dim=-1).flatten(2)


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
