"""Weights as bitsandbytes saves them: NF4 and FP4 (Dettmers et al., 2023), and LLM.int8 (Dettmers et al., 2022).

Of 4 bits each number is one of 16 values times the largest of its block; those largest are themselves quantised in
blocks where they are nested. It is read without the package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from inference.model.linear import GROUP, PIECE, CodedLinear, GroupedLinear, Int8Linear
from inference.reading import shown

STATE: Final = "quant_state.bitsandbytes__"
NF4_VALUES: Final = (
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
_BLOCKS: Final = tuple(2**power for power in range(5, 13))
_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)

Part = Callable[[str, "tuple[int, ...] | None", Collection[torch.dtype]], Tensor]
"""What lies beside a weight, by its name; it must have a shape, if one is given, and one of some types."""


@dataclass(frozen=True)
class FourBits:
    """A weight of `shape` in 4 bits: `packed` uint8 holds two numbers a byte, the first one high; `values` float32 [16]
    are what they stand for, and `tops` float32 the largest of each `block` numbers."""

    shape: tuple[int, int]
    packed: Tensor
    values: Tensor
    tops: Tensor
    block: int

    def linear(self) -> GroupedLinear:
        """In four bits where its values are NF4's, else rounded to eight. Raises ValueError for inputs that make no
        groups."""
        is_nf4 = torch.allclose(self.values, torch.tensor(NF4_VALUES), atol=1e-4)
        if not is_nf4 or self.shape[1] % GROUP:
            return Int8Linear.stacked([Int8Linear(piece) for piece in self.dequantized()])
        pairs = self.packed.view(self.shape[0], -1)
        steps = (self.tops / CodedLinear.CODES[-1]).to(torch.float16).repeat_interleave(self.block // GROUP)
        groups = self.shape[0] * self.shape[1] // GROUP
        return CodedLinear.of_parts(pairs >> 4 | pairs << 4, steps[:groups].view(self.shape[0], -1))

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


def four_bits(stored: Tensor, shape: tuple[int, int], kind: str, part: Part) -> FourBits:
    """The weight of `shape` whose packed numbers are `stored`, in whatever type; `part` gives what lies beside it.

    Raises ValueError for what does not fit, and what `part` does.
    """
    told = _state(part(f"{STATE}{kind}", None, (torch.uint8,)), kind, shape)
    packed, size = stored.contiguous().view(-1).view(torch.uint8), shape[0] * shape[1]
    if packed.numel() * 2 != size:
        raise ValueError(f"{packed.numel()} bytes are no weight of shape {shape} in 4 bits")
    blocks = -(-size // told["blocksize"])
    is_nested = "nested_blocksize" in told
    tops = _nested(blocks, part, told) if is_nested else part("absmax", (blocks,), _FLOATS).float()
    values = part("quant_map", (16,), _FLOATS).float()
    if not all(torch.isfinite(numbers).all() for numbers in (tops, values)):
        raise ValueError("it has scales or values that are no numbers")
    return FourBits(shape, packed, values, tops, told["blocksize"])


def eight_bits(weight: Tensor, tops: Tensor) -> Int8Linear:
    """LLM.int8: `weight` int8 [out, in] times `tops` float32 [out] / 127, the scale of which is rounded to float16."""
    scales = (tops.float() / 127).to(torch.float16)
    return Int8Linear.of_parts(weight, scales[:, None].expand(-1, weight.shape[1] // GROUP).contiguous())


def _state(raw: Tensor, kind: str, shape: tuple[int, int]) -> dict[str, Any]:
    """What is told of the weight, in JSON as bytes. Raises ValueError."""
    try:
        told: Any = json.loads(bytes(raw.flatten().tolist()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {STATE}{kind} is not JSON: {str(error)[:100]}") from error
    if not isinstance(told, dict):
        raise ValueError(f"its {STATE}{kind} holds no object but a {type(told).__name__}")
    if told.get("shape") != list(shape):
        raise ValueError(f"its state is of shape {shown(told.get('shape'))}; config.json asks for {list(shape)}")
    if told.get("quant_type", kind) != kind:
        raise ValueError(f"its state is of {shown(told['quant_type'])}, and is called {kind}")
    if type(told.get("blocksize")) is not int or told["blocksize"] not in _BLOCKS:
        raise ValueError(f"its blocksize is {shown(told.get('blocksize'))}; it is a power of 2 from 32 to 4096")
    if "nested_blocksize" in told:
        _check_nested(told)
    return told


def _check_nested(told: dict[str, Any]) -> None:
    size, offset = told["nested_blocksize"], told.get("nested_offset")
    if type(size) is not int or not 1 <= size <= 4096:
        raise ValueError(f"its nested_blocksize is {shown(size)}; it is a whole number from 1 to 4096")
    if type(offset) not in (int, float) or not math.isfinite(offset or 0):
        raise ValueError(f"its nested_offset is {shown(offset)}; it is a number")


def _nested(blocks: int, part: Part, told: dict[str, Any]) -> Tensor:
    size = told["nested_blocksize"]
    levels = part("absmax", (blocks,), (torch.uint8,)).to(torch.int64)
    scales = part("nested_absmax", (-(-blocks // size),), _FLOATS).float().repeat_interleave(size)[:blocks]
    return part("nested_quant_map", (256,), _FLOATS).float()[levels] * scales + told["nested_offset"]


def _in_rows(pieces: Iterator[Tensor], width: int) -> Iterator[Tensor]:
    """Numbers as rows [n, width]; what a piece has beyond whole rows belongs to the next."""
    rest = torch.empty(0)
    for piece in pieces:
        piece = torch.cat((rest, piece)) if len(rest) else piece
        whole = len(piece) // width * width
        rest = piece[whole:]
        if whole:
            yield piece[:whole].view(-1, width)
