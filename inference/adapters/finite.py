"""Which tensors of a safetensors file hold no numbers, found in its raw bytes: no numpy, no torch."""

from __future__ import annotations

import struct
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Final

from inference.adapters.identity import DTYPE_BYTES, TensorInfo

_EXPONENTS: Final = {
    "F64": (0x7FF0 << 48, 0x3810 << 48),
    "F32": (0x7F80 << 16, 0x0080 << 16),
    "F16": (0x7C00, 0x0400),
    "BF16": (0x7F80, 0x0080),
}
"""The bits of each type's exponent, and what carries into the sign when added to that of NaN, infinity and no other.

From F64, which is read as F32, all exponents carry that the narrower type does not have.
"""

CHUNK_BYTES: Final = 64 * 1024


def non_finite(path: Path, header: dict[str, TensorInfo]) -> list[str]:
    """The names of the tensors in `path` that hold NaN or infinity, as float32 holds their numbers."""
    numbers = [tensor for tensor in header.values() if not (tensor.is_of_copy or tensor.is_of_indices)]
    with path.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        spans = _spans(numbers)
        if all(_are_finite(file, start + begin, end - begin, dtype) for begin, end, dtype in spans):
            return []
        return [each.name for each in numbers if not _are_finite(file, start + each.begin, _size(each), each.dtype)]


def _spans(tensors: list[TensorInfo]) -> list[tuple[int, int, str]]:
    """Where numbers of one type lie without a gap: those of many small tensors are faster looked at together."""
    spans: list[tuple[int, int, str]] = []
    for tensor in sorted(tensors, key=attrgetter("begin")):
        begin, end, dtype = spans[-1] if spans else (0, 0, "")
        if (end, dtype) == (tensor.begin, tensor.dtype):
            spans[-1] = begin, tensor.end, dtype
        else:
            spans.append((tensor.begin, tensor.end, tensor.dtype))
    return spans


def _size(tensor: TensorInfo) -> int:
    return tensor.end - tensor.begin


def _are_finite(file: BinaryIO, place: int, size: int, dtype: str) -> bool:
    file.seek(place)
    lefts = range(size, 0, -CHUNK_BYTES)
    return all(_is_finite(file.read(min(left, CHUNK_BYTES)), dtype) for left in lefts)


def _is_finite(chunk: bytes, dtype: str) -> bool:
    """Whether no exponent carries into its sign. All numbers of the chunk are added at once, as one long integer."""
    exponents, carries, signs = _masks(dtype, len(chunk))
    return not ((int.from_bytes(chunk, "little") & exponents) + carries) & signs


@lru_cache(maxsize=64)
def _masks(dtype: str, size: int) -> tuple[int, int, int]:
    """The exponent bits, what is added to them and the sign bit, repeated for each number in `size` bytes."""
    width, (exponent, carry) = DTYPE_BYTES[dtype], _EXPONENTS[dtype]
    ones = int.from_bytes((1).to_bytes(width, "little") * (size // width), "little")
    return ones * exponent, ones * carry, ones << (8 * width - 1)
