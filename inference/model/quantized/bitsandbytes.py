"""Weights as bitsandbytes saves them: NF4 and FP4 (Dettmers et al., 2023), and LLM.int8 (Dettmers et al., 2022).

Of 4 bits each number is one of 16 values times the largest of its block; those largest are themselves quantised in
blocks where they are nested. It is read without the package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from inference.model.linear import GROUP, PIECE, Int8Linear

STATE: Final = "quant_state.bitsandbytes__"


@dataclass(frozen=True)
class FourBits:
    """A weight of `shape` in 4 bits: `packed` uint8 holds two numbers a byte, the first one high; `values` float32 [16]
    are what they stand for, and `tops` float32 the largest of each `block` numbers."""

    shape: tuple[int, int]
    packed: Tensor
    values: Tensor
    tops: Tensor
    block: int

    def dequantized(self) -> Iterator[Tensor]:
        """float32 [rows, in], some rows at a time."""
        width = self.shape[1]
        step = max(1, PIECE // width)
        # Rows of one piece begin where a block does.
        step = -(-step * width // (2 * self.block)) * 2 * self.block
        flat = self.packed.view(-1)
        pieces = (self._numbers(flat, first, step) for first in range(0, self.shape[0] * width, step))
        return _in_rows(pieces, width)

    def _numbers(self, flat: Tensor, first: int, count: int) -> Tensor:
        packed = flat[first // 2 : (first + count) // 2]
        numbers = self.values[torch.stack((packed >> 4, packed & 15), dim=1).flatten().to(torch.int64)]
        tops = self.tops[first // self.block : -(-(first + count) // self.block)]
        return numbers * tops.repeat_interleave(self.block)[: len(numbers)]


def four_bits(packed: Tensor, parts: Callable[[str], Tensor], state: str) -> FourBits:
    """The weight whose packed numbers are `packed`; `parts` gives what lies beside it, and `state` is its state's name.

    Raises ValueError for a state that is not understood.
    """
    told = json.loads(bytes(parts(state).tolist()))
    tops = parts("absmax")
    if "nested_blocksize" in told:
        tops = _nested(tops, parts, told)
    shape = tuple(int(size) for size in told["shape"])
    if len(shape) != 2 or packed.numel() * 2 != shape[0] * shape[1]:
        raise ValueError(f"{packed.numel()} bytes are no weight of shape {shape} in 4 bits")
    return FourBits((shape[0], shape[1]), packed, parts("quant_map").float(), tops.float(), int(told["blocksize"]))


def eight_bits(weight: Tensor, tops: Tensor) -> Int8Linear:
    """LLM.int8: `weight` int8 [out, in] times `tops` float32 [out] / 127, the scale of which is rounded to float16."""
    scales = (tops.float() / 127).to(torch.float16)
    return Int8Linear.of_levels(weight, scales[:, None].expand(-1, weight.shape[1] // GROUP).contiguous())


def _nested(tops: Tensor, parts: Callable[[str], Tensor], told: dict[str, Any]) -> Tensor:
    of_blocks = parts("nested_absmax").float().repeat_interleave(int(told["nested_blocksize"]))[: tops.numel()]
    return parts("nested_quant_map").float()[tops.view(-1).to(torch.int64)] * of_blocks + float(told["nested_offset"])


def _in_rows(pieces: Iterator[Tensor], width: int) -> Iterator[Tensor]:
    """Numbers as rows [n, width]; what a piece has beyond whole rows belongs to the next."""
    rest = torch.empty(0)
    for piece in pieces:
        piece = torch.cat((rest, piece)) if len(rest) else piece
        whole = len(piece) // width * width
        rest = piece[whole:]
        if whole:
            yield piece[:whole].view(-1, width)
