"""The header of a GGUF file: its typed fields and the table of its tensors. What is long is only counted."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference.model.safetensors_files import WeightsError
from inference.reading import shown

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONG: Final = 1024
"""Arrays of more values, which are those of the vocabulary, are only counted."""
_MOST_ENTRIES: Final = 1 << 17
"""Of fields, and of tensors."""
_LONGEST_NAME: Final = 63
"""Bytes of a tensor's name, as ggml has it (GGML_MAX_NAME)."""
_LONGEST_TEXT: Final = 1 << 24
_MOST_DIMENSIONS: Final = 4


class GgufError(WeightsError):
    """A GGUF file that cannot be read or served."""


@dataclass(frozen=True)
class LongArray:
    """An array that was not read."""

    length: int


@dataclass(frozen=True)
class Entry:
    """A tensor of the table: `shape` is in torch's order, outputs first; `offset` counts from where data begins."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class Header:
    """Reads on from `at`, within a file of `size` bytes. Raises `GgufError`."""

    def __init__(self, path: Path, descriptor: int, size: int, is_whole: bool = False) -> None:
        """`is_whole`: long arrays are read too."""
        self._path, self._descriptor, self._size, self.at = path, descriptor, size, 0
        self._longest = size if is_whole else _LONG
        self._ahead, self._ahead_at = b"", 0
        magic = self._take(4)
        if magic != _MAGIC:
            raise self._fault("it begins with other bytes than GGUF")
        self._version = self._number("I")
        if self._version not in _VERSIONS:
            raise self._fault(f"its version is {self._version}; read are versions 2 and 3, little-endian")
        self._num_tensors, self._num_fields = self._count("tensors"), self._count("fields")

    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(self._num_fields):
            name = self._string()
            if name in found:
                raise self._fault(f"its field {shown(name)} is there twice")
            found[name] = self._value(self._number("I"))
        return found

    def table(self) -> list[Entry]:
        found = {entry.name: entry for entry in (self._entry() for _ in range(self._num_tensors))}
        if len(found) < self._num_tensors:
            raise self._fault("two of its tensors have one name")
        return list(found.values())

    def _count(self, what: str) -> int:
        count: int = self._number("Q")
        if count > _MOST_ENTRIES:
            raise self._fault(f"it says that it has {count} {what}")
        return count

    def _entry(self) -> Entry:
        length = self._number("Q")
        if length > _LONGEST_NAME:
            raise self._fault(f"the name of a tensor has {length} bytes; names have up to {_LONGEST_NAME}")
        name, count = self._text(length), self._number("I")
        if count > _MOST_DIMENSIONS:
            raise self._fault(f"its tensor {shown(name)} has {count} dimensions")
        shape = tuple(self._number("Q") for _ in range(count))[::-1] or (1,)
        if min(shape) < 1:
            raise self._fault(f"its tensor {shown(name)} has shape {shape}")
        return Entry(name, shape, self._number("I"), self._number("Q"))

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._number("I"), self._number("Q"))
        return self._number(self._format(kind))

    def _array(self, kind: int, count: int) -> Any:
        if kind != _STRING:
            width = struct.calcsize(f"<{self._format(kind)}")
            values = self._take(width * count) if count <= self._longest else self._skip(width * count)
            return list(struct.unpack(f"<{count}{self._format(kind)}", values)) if values else LongArray(count)
        if count <= self._longest:
            return [self._string() for _ in range(count)]
        for _ in range(count):
            self._skip(self._number("Q"))
        return LongArray(count)

    def _format(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise self._fault(f"it has a field of an unknown type ({kind})")
        return _NUMBERS[kind]

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]

    def _string(self) -> str:
        length = self._number("Q")
        if length > _LONGEST_TEXT:
            raise self._fault(f"it has a text of {length} bytes")
        return self._text(length)

    def _text(self, length: int) -> str:
        return self._take(length).decode("utf-8", errors="replace")

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
