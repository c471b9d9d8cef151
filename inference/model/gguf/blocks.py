"""The types of GGUF's blocks as numbers: whole levels, and a scale, perhaps a minimum, for each group of inputs.

A weight is level * scale + minimum in float32, exactly as ggml has it: every product is exact there, and the sum is
rounded once. This is the truth for what the decoders keep, and slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Groups:
    """Weights [rows, in] whose groups of `size` inputs share a scale: `levels` are whole numbers [rows, in], uint8
    from 0 on where there are `mins` and int8 else; `scales` and `mins` are float32 [rows, in / size]."""

    levels: NDArray[Any]
    scales: Floats
    mins: Floats | None
    size: int

    def weights(self) -> Floats:
        """float32 [rows, in]."""
        rows, width = self.levels.shape
        values = self.levels.reshape(rows, -1, self.size) * self.scales[..., None]
        return (values if self.mins is None else values + self.mins[..., None]).reshape(rows, width)


@dataclass(frozen=True)
class BlockType:
    """`num_bytes` hold `width` weights. `groups` reads blocks [n, num_bytes] as `Groups` of n rows; where weights are
    numbers by themselves `plain` reads them, uint8 [n, bytes] as float32 [n, in]."""

    name: str
    width: int
    num_bytes: int
    groups: Callable[[Bytes], Groups] | None = None
    plain: Callable[[Bytes], Floats] | None = None

    def read(self, raw: Bytes) -> Groups:
        """Rows of blocks, uint8 [rows, bytes]."""
        assert self.groups is not None, "plain numbers have no groups"
        found = self.groups(np.ascontiguousarray(raw).reshape(-1, self.num_bytes))
        rows = len(raw)
        mins = None if found.mins is None else found.mins.reshape(rows, -1)
        return Groups(found.levels.reshape(rows, -1), found.scales.reshape(rows, -1), mins, found.size)

    def dequantize(self, raw: Bytes) -> Floats:
        """Rows of blocks, uint8 [rows, bytes], as float32 [rows, in]."""
        return self.plain(np.ascontiguousarray(raw)) if self.plain else self.read(raw).weights()


def _q4_0(raw: Bytes) -> Groups:
    scales = _halves(raw[:, :2])
    return Groups(_nibbles(raw[:, 2:]), scales, scales * np.float32(-8), 32)


def _q4_1(raw: Bytes) -> Groups:
    return Groups(_nibbles(raw[:, 4:]), _halves(raw[:, :2]), _halves(raw[:, 2:4]), 32)


def _q5_0(raw: Bytes) -> Groups:
    scales = _halves(raw[:, :2])
    return Groups(_nibbles(raw[:, 6:]) | _fifth_bits(raw[:, 2:6]), scales, scales * np.float32(-16), 32)


def _q5_1(raw: Bytes) -> Groups:
    levels = _nibbles(raw[:, 8:]) | _fifth_bits(raw[:, 4:8])
    return Groups(levels, _halves(raw[:, :2]), _halves(raw[:, 2:4]), 32)


def _q8_0(raw: Bytes) -> Groups:
    return Groups(raw[:, 2:].view(np.int8), _halves(raw[:, :2]), None, 32)


def _q4_k(raw: Bytes) -> Groups:
    scales, mins = _scales_and_mins(raw)
    return Groups(_nibbles(raw[:, 16:].reshape(-1, 32)).reshape(len(raw), 256), scales, mins, 32)


def _q5_k(raw: Bytes) -> Groups:
    scales, mins = _scales_and_mins(raw)
    low = _nibbles(raw[:, 48:].reshape(-1, 32)).reshape(-1, 8, 32)
    # Bit g of byte i is the fifth of the i-th weight of group g.
    high = raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return Groups((low | high << 4).reshape(len(raw), 256), scales, mins, 32)


def _q6_k(raw: Bytes) -> Groups:
    # Halves of 128 weights: 64 bytes of low nibbles, 32 of which each byte has the upper two bits of four weights.
    low = _nibbles(raw[:, :128].reshape(-1, 64)).reshape(-1, 2, 4, 32)
    high = raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    levels = (low | high << 4).view(np.int8) - np.int8(32)
    scales = _halves(raw[:, 208:]) * raw[:, 192:208].view(np.int8)
    return Groups(levels.reshape(len(raw), 256), scales, None, 16)


def _scales_and_mins(raw: Bytes) -> tuple[Floats, Floats]:
    """float32 [n, 8] each, of the K types: 6 bits apiece, the first four whole and the others in two parts."""
    packed = raw[:, 4:16].reshape(-1, 3, 4)
    first, second, rest = packed[:, 0], packed[:, 1], packed[:, 2]
    scales = np.concatenate((first & 63, (rest & 15) | (first >> 6) << 4), axis=1)
    mins = np.concatenate((second & 63, rest >> 4 | (second >> 6) << 4), axis=1)
    return _halves(raw[:, :2]) * scales, _halves(raw[:, 2:4]) * mins * np.float32(-1)


def _nibbles(raw: Bytes) -> Bytes:
    """[n, m] as [n, 2 m]: the low ones of a row, then its high ones."""
    return np.concatenate((raw & 15, raw >> 4), axis=1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """[n, 4] as [n, 32] of 0 or 16."""
    return np.unpackbits(raw, axis=1, bitorder="little") << np.uint8(4)


def _halves(raw: Bytes) -> Floats:
    """Float16 in bytes as float32, [n, 2 m] as [n, m]."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _bfloat16(raw: Bytes) -> Floats:
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


BLOCKS: Final = {
    0: BlockType("F32", 1, 4, plain=lambda raw: raw.view(np.float32)),
    1: BlockType("F16", 1, 2, plain=_halves),
    30: BlockType("BF16", 1, 2, plain=_bfloat16),
    8: BlockType("Q8_0", 32, 34, _q8_0),
    2: BlockType("Q4_0", 32, 18, _q4_0),
    3: BlockType("Q4_1", 32, 20, _q4_1),
    6: BlockType("Q5_0", 32, 22, _q5_0),
    7: BlockType("Q5_1", 32, 24, _q5_1),
    12: BlockType("Q4_K", 256, 144, _q4_k),
    13: BlockType("Q5_K", 256, 176, _q5_k),
    14: BlockType("Q6_K", 256, 210, _q6_k),
}
"""By ggml's number of the type."""
_OTHERS: Final = {
    10: "Q2_K",
    11: "Q3_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}


def name_of(kind: int) -> str:
    """What ggml calls a type."""
    return BLOCKS[kind].name if kind in BLOCKS else _OTHERS.get(kind, f"number {kind}")
