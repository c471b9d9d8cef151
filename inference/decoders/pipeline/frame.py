"""What one stage says to the next, and how it is one piece of bytes: some words in JSON, and tensors behind them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

_ALIGNMENT: Final = 64
_DTYPES: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)
}


@dataclass(frozen=True)
class Frame:
    """`kind` says what it is about, `to` is the stage that it is for; `told` are JSON values."""

    kind: str
    to: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()


def encode(frame: Frame) -> Tensor:
    """The bytes, uint8 [n]: their number and that of the words as int64, the words, the tensors. These keep their
    strides where they have no gaps: another order in memory may be another product."""
    dense = [tensor if tensor.is_contiguous() else tensor.clone() for tensor in frame.tensors]
    shapes = [(str(one.dtype).removeprefix("torch."), tuple(one.shape), one.stride()) for one in dense]
    words = json.dumps([frame.kind, frame.to, frame.told, shapes], separators=(",", ":")).encode()
    starts, total = _places(len(words), dense)
    content = torch.empty(total, dtype=torch.uint8)
    content[:16].view(torch.int64)[:] = torch.tensor([total, len(words)])
    content[16 : 16 + len(words)] = torch.frombuffer(bytearray(words), dtype=torch.uint8)
    for start, tensor in zip(starts, dense, strict=True):
        if tensor.numel():
            flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
            content[start : start + len(flat)] = flat
    return content


def decode(content: Tensor) -> Frame:
    """The frame of `encode`, whose tensors lie in `content`."""
    length = int(content[8:16].view(torch.int64))
    kind, to, told, shapes = json.loads(content[16 : 16 + length].numpy().tobytes())
    start, tensors = _aligned(16 + length), []
    for name, shape, strides in shapes:
        dtype, count = _DTYPES[name], math.prod(shape)
        end = start + count * dtype.itemsize
        flat = content[start:end].view(dtype)
        tensors.append(flat.as_strided(shape, strides) if count else torch.empty(shape, dtype=dtype))
        start = _aligned(end)
    return Frame(kind, to, told, tuple(tensors))


def length_of(beginning: Tensor) -> int:
    """How many bytes the frame has that begins so."""
    return int(beginning[:8].view(torch.int64))


def _places(num_words: int, tensors: list[Tensor]) -> tuple[list[int], int]:
    """Where each tensor begins, and where all end."""
    starts, end = [], _aligned(16 + num_words)
    for tensor in tensors:
        starts.append(end)
        end = _aligned(end + tensor.nbytes)
    return starts, end


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
