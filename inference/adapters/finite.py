"""Which tensors of a safetensors file hold no numbers, found in its raw bytes: no numpy, no torch."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from typing import Final

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
    with path.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        found = []
        for tensor in header.values():
            if tensor.is_of_copy or tensor.is_of_indices:
                continue
            file.seek(start + tensor.begin)
            lefts = range(tensor.end - tensor.begin, 0, -CHUNK_BYTES)
            if not all(_is_finite(file.read(min(left, CHUNK_BYTES)), tensor.dtype) for left in lefts):
                found.append(tensor.name)
    return found


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
