"""Whether whole numbers in a safetensors file point at what is there, found in its raw bytes: no numpy and no torch."""

from __future__ import annotations

import array
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from inference.adapters.finite import CHUNK_BYTES
from inference.adapters.identity import TensorInfo

_CODES: Final = {"U8": "B", "I8": "b", "I16": "h", "I32": "i", "I64": "q"}


def pointing_beyond(path: Path, tensors: Iterable[TensorInfo], count: int) -> list[str]:
    """The names of those `tensors` of `path`, of whole numbers, that hold one which is none of 0 to `count` - 1."""
    with path.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        found = []
        for tensor in tensors:
            file.seek(start + tensor.begin)
            lefts = range(tensor.end - tensor.begin, 0, -CHUNK_BYTES)
            if not all(_are_within(file.read(min(left, CHUNK_BYTES)), tensor.dtype, count) for left in lefts):
                found.append(tensor.name)
    return found


def _are_within(chunk: bytes, dtype: str, count: int) -> bool:
    numbers = array.array(_CODES[dtype], chunk)
    if sys.byteorder == "big":
        numbers.byteswap()
    return min(numbers) >= 0 and max(numbers) < count
