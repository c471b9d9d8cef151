"""A GGUF file: its fields and where its tensors lie. What is long is read when it is asked for, and never kept.

The format is ggml-org's: little-endian, a header of typed fields, a table of tensors, and their data, aligned.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.model.checkpoint import WeightsError
from inference.model.gguf.blocks import BLOCKS, BlockType, name_of

Bytes = NDArray[np.uint8]

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONG: Final = 1024
"""Arrays of more values, which are those of the vocabulary, are only counted."""
_PIECE: Final = 1 << 20
"""Weights that are read at once."""


class GgufError(WeightsError):
    """A GGUF file that cannot be read or served."""


@dataclass(frozen=True)
class LongArray:
    """An array that was not read."""

    length: int


@dataclass(frozen=True)
class GgufTensor:
    """`shape` is in torch's order, outputs first; `start` is the place of its first byte in the file."""

    name: str
    shape: tuple[int, ...]
    block: BlockType
    start: int

    @property
    def rows(self) -> int:
        """How many rows of its last dimension there are."""
        return prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] // self.block.width * self.block.num_bytes


class GgufFile:
    """The file at `path`, open as long as it lives. Raises `GgufError` for one that is none, or was cut short."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise GgufError(f"{path} cannot be read: {error}") from error
        self._size = os.fstat(self._file.fileno()).st_size
        header = _Header(path, self._file.fileno(), self._size)
        self.fields: dict[str, Any] = header.fields()
        self.tensors = {tensor.name: tensor for tensor in self._placed(header)}

    def whole_fields(self) -> dict[str, Any]:
        """The fields with their long arrays, read anew."""
        return _Header(self.path, self._file.fileno(), self._size, longest=self._size).fields()

    def raw(self, tensor: GgufTensor, first: int, count: int) -> Bytes:
        """The blocks of `count` rows from `first` on, uint8 [count, row_bytes]."""
        width = tensor.row_bytes
        found = np.empty((count, width), np.uint8)
        if os.preadv(self._file.fileno(), [found.data], tensor.start + first * width) != found.size:
            raise GgufError(f"{self.path} was cut short while it was read; fetch it again")
        return found

    def pieces(self, tensor: GgufTensor, multiple: int = 1) -> Iterator[Bytes]:
        """All rows as `raw` gives them, some at a time: a multiple of `multiple`."""
        step = max(1, _PIECE // tensor.shape[-1] // multiple) * multiple
        for first in range(0, tensor.rows, step):
            yield self.raw(tensor, first, min(step, tensor.rows - first))

    def _placed(self, header: _Header) -> Iterator[GgufTensor]:
        """The tensors of the table, each of a known type and whole in the file."""
        table = header.table()
        alignment = int(self.fields.get("general.alignment", 32)) or 32
        data = -(-header.at // alignment) * alignment
        for name, dimensions, kind, offset in table:
            tensor = GgufTensor(name, dimensions[::-1] or (1,), self._block(name, kind), data + offset)
            if tensor.shape[-1] % tensor.block.width:
                blocks = f"blocks of {tensor.block.width}, and its rows have {tensor.shape[-1]} numbers"
                raise GgufError(f"tensor {name!r} of {self.path} is in {blocks}; the file is damaged, fetch it again")
            if tensor.start + tensor.rows * tensor.row_bytes > self._size:
                raise GgufError(f"{self.path} ends before its tensor {name!r} does; it is not whole, fetch it again")
            yield tensor

    def _block(self, name: str, kind: int) -> BlockType:
        if kind not in BLOCKS:
            known = ", ".join(block.name for block in BLOCKS.values())
            raise GgufError(f"tensor {name!r} of {self.path} is of type {name_of(kind)}; served are {known}")
        return BLOCKS[kind]


class _Header:
    """Reads on from `at`, within the file."""

    def __init__(self, path: Path, descriptor: int, size: int, longest: int = _LONG) -> None:
        self._path, self._descriptor, self._size, self.at = path, descriptor, size, 0
        self._longest = longest
        self._ahead, self._ahead_at = b"", 0
        magic = self._take(4)
        if magic != _MAGIC:
            raise self._fault("it begins with other bytes than GGUF")
        self._version = self._number("I")
        if self._version not in _VERSIONS:
            raise self._fault(f"its version is {self._version}; read are versions 2 and 3, little-endian")
        self._num_tensors, self._num_fields = self._number("Q"), self._number("Q")

    def fields(self) -> dict[str, Any]:
        return {self._string(): self._value(self._number("I")) for _ in range(self._num_fields)}

    def table(self) -> list[tuple[str, tuple[int, ...], int, int]]:
        """Name, dimensions with the innermost first, type and offset of each tensor."""
        return [self._entry() for _ in range(self._num_tensors)]

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, count = self._string(), self._number("I")
        if count > 8:
            raise self._fault(f"its tensor {name!r} has {count} dimensions")
        return name, tuple(self._number("Q") for _ in range(count)), self._number("I"), self._number("Q")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._number("I"), self._number("Q"))
        return self._number(self._format(kind))

    def _array(self, kind: int, count: int) -> Any:
        if kind not in (_STRING, _ARRAY):
            width = struct.calcsize(f"<{self._format(kind)}")
            values = self._take(width * count) if count <= self._longest else self._skip(width * count)
            return list(struct.unpack(f"<{count}{self._format(kind)}", values)) if values else LongArray(count)
        if count <= self._longest:
            return [self._value(kind) for _ in range(count)]
        for _ in range(count):
            self._value(kind)
        return LongArray(count)

    def _format(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise self._fault(f"it has a field of an unknown type ({kind})")
        return _NUMBERS[kind]

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]

    def _string(self) -> str:
        return self._take(self._number("Q")).decode("utf-8", errors="replace")

    def _skip(self, count: int) -> bytes:
        self._check(count)
        self.at += count
        return b""

    def _take(self, count: int) -> bytes:
        self._check(count)
        start = self.at - self._ahead_at
        if not 0 <= start <= start + count <= len(self._ahead):
            self._ahead, self._ahead_at, start = os.pread(self._descriptor, max(count, 1 << 18), self.at), self.at, 0
        self.at += count
        return self._ahead[start : start + count]

    def _check(self, count: int) -> None:
        if self.at + count > self._size:
            raise self._fault("it ends in the midst of its header")

    def _fault(self, what: str) -> GgufError:
        return GgufError(f"{self._path} is not a readable GGUF file: {what}; fetch it again")
