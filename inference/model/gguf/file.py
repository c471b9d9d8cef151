"""A GGUF file, or the parts into which one was split: its fields, and where its tensors lie, which are read when they
are asked for and never kept.

The format is ggml-org's: little-endian, a header of typed fields, a table of tensors, and their data, aligned. Of parts
the first has the fields of all, and each the tensors that lie in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.model.gguf.blocks import BLOCKS, BlockType, name_of
from inference.model.gguf.header import Entry, GgufError, Header
from inference.reading import shown

Bytes = NDArray[np.uint8]

FILE: Final = "model.gguf"
"""What the file is called in a model directory, unless it is in parts."""
_FIRST: Final = "model-00001-of-*.gguf"
_PIECE: Final = 1 << 20
"""Weights that are read at once."""
_PART: Final = re.compile(r"(.{1,200})-(\d{5})-of-(\d{5})\.gguf")
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"


@dataclass(frozen=True)
class GgufTensor:
    """`shape` is in torch's order, outputs first; `start` is the place of its first byte in the `part`th file."""

    name: str
    shape: tuple[int, ...]
    block: BlockType
    start: int
    part: int = 0

    @property
    def rows(self) -> int:
        """How many rows of its last dimension there are."""
        return prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] // self.block.width * self.block.num_bytes

    @property
    def stop(self) -> int:
        """The place behind its last byte."""
        return self.start + self.rows * self.row_bytes


class GgufFile:
    """The file at `path`, or the parts of which that is the first, open as long as it lives. Raises `GgufError` for one
    that is none, or was cut short."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = [_Part(path)]
        self.fields: dict[str, Any] = self._parts[0].fields
        for part_path in self._others():
            self._parts.append(_Part(part_path))
        self.tensors: dict[str, GgufTensor] = {}
        for number, part in enumerate(self._parts):
            self._add(number, part)
        self._check_parts()

    @property
    def paths(self) -> list[Path]:
        """Its parts in order, or itself."""
        return [part.path for part in self._parts]

    def whole_fields(self) -> dict[str, Any]:
        """The fields with their long arrays, read anew."""
        return self._parts[0].header(is_whole=True).fields()

    def raw(self, tensor: GgufTensor, first: int, count: int) -> Bytes:
        """The blocks of `count` rows from `first` on, uint8 [count, row_bytes]."""
        width = tensor.row_bytes
        found = np.empty((count, width), np.uint8)
        part = self._parts[tensor.part]
        if os.preadv(part.descriptor, [found.data], tensor.start + first * width) != found.size:
            raise GgufError(f"{part.path} was cut short while it was read; fetch it again")
        return found

    def pieces(self, tensor: GgufTensor, multiple: int = 1) -> Iterator[Bytes]:
        """All rows as `raw` gives them, some at a time: a multiple of `multiple`."""
        step = max(1, _PIECE // tensor.shape[-1] // multiple) * multiple
        for first in range(0, tensor.rows, step):
            yield self.raw(tensor, first, min(step, tensor.rows - first))

    def _others(self) -> list[Path]:
        """The parts behind the first."""
        count, number = (self.fields.get(key, 0) for key in (_COUNT, _NUMBER))
        if type(count) is not int or type(number) is not int:
            raise GgufError(f"{self.path} says {_COUNT} {shown(count)} and {_NUMBER} {shown(number)}; they are numbers")
        if count <= 1:
            return []
        named = _PART.fullmatch(self.path.name)
        if named is None or int(named[3]) != count:
            raise GgufError(
                f"{self.path} is one of {count} parts, whose names end in -00001-of-{count:05}.gguf and so on; call "
                "them so, or join them with `llama-gguf-split --merge`"
            )
        paths = part_names(named[1], count)
        if number:
            raise GgufError(f"{self.path} is part {number + 1} of {count}; give the first, {paths[0]}")
        if missing := [name for name in paths if not (self.path.parent / name).is_file()]:
            raise GgufError(f"{self.path} is one of {count} parts, and {missing[0]} is not beside it; fetch it too")
        return [self.path.parent / name for name in paths[1:]]

    def _add(self, number: int, part: _Part) -> None:
        for key, wanted in ((_NUMBER, number), (_COUNT, self.fields.get(_COUNT))) if number else ():
            if (told := part.fields.get(key)) != wanted:
                raise GgufError(f"{part.path} says {key} {shown(told)} and would be {wanted}; fetch it again")
        for tensor in part.tensors(number):
            if tensor.name in self.tensors:
                raise GgufError(f"the tensor {shown(tensor.name)} is in two parts of {self.path}; fetch them again")
            self.tensors[tensor.name] = tensor

    def _check_parts(self) -> None:
        wanted, has = self.fields.get(_TENSORS, len(self.tensors)), len(self.tensors)
        if len(self._parts) > 1 and wanted != has:
            raise GgufError(f"the parts of {self.path} have {has} tensors of {shown(wanted)}; fetch them again")


def gguf_in(directory: Path) -> Path | None:
    """The file of a model directory, or the first of its parts; None where it has none."""
    return next((path for path in (directory / FILE, *sorted(directory.glob(_FIRST))) if path.is_file()), None)


def names_in(file: GgufFile) -> list[str]:
    """What the parts of `file` are called in a model directory."""
    count = len(file.paths)
    return [FILE] if count == 1 else part_names(FILE.removesuffix(".gguf"), count)


def part_names(stem: str, count: int) -> list[str]:
    """What the parts of a file are called."""
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


class _Part:
    """One file: its fields, and its tensors, each whole in it and apart from the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise GgufError(f"{path} cannot be read: {error}") from error
        self._size = os.fstat(self._file.fileno()).st_size
        header = self.header()
        self.fields = header.fields()
        self._table, self._data = header.table(), header.at

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def header(self, is_whole: bool = False) -> Header:
        return Header(self.path, self.descriptor, self._size, is_whole)

    def tensors(self, number: int) -> list[GgufTensor]:
        """The tensors of the table."""
        alignment = self.fields.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._damaged(f"{self.path} says general.alignment {shown(alignment)}, which is no power of 2")
        data = -(-self._data // alignment) * alignment
        found = [self._placed(entry, data, alignment, number) for entry in self._table]
        for first, second in pairwise(sorted(found, key=lambda tensor: tensor.start)):
            if first.stop > second.start:
                names = f"{shown(first.name)} and {shown(second.name)}"
                raise self._damaged(f"the tensors {names} of {self.path} lie over each other")
        return found

    def _placed(self, entry: Entry, data: int, alignment: int, number: int) -> GgufTensor:
        told = f"tensor {shown(entry.name)} of {self.path}"
        if entry.kind not in BLOCKS:
            known = ", ".join(block.name for block in BLOCKS.values())
            raise GgufError(f"{told} is of type {name_of(entry.kind)}; served are {known}")
        tensor = GgufTensor(entry.name, entry.shape, BLOCKS[entry.kind], data + entry.offset, number)
        if tensor.shape[-1] % tensor.block.width:
            blocks = f"blocks of {tensor.block.width}, and its rows have {tensor.shape[-1]} numbers"
            raise self._damaged(f"{told} is in {blocks}")
        if entry.offset % alignment:
            raise self._damaged(f"{told} begins at {entry.offset}, which is no multiple of {alignment}")
        if tensor.stop > self._size:
            short = f"{self.path} ends before its tensor {shown(entry.name)} does"
            raise GgufError(f"{short}; it is not whole, fetch it again")
        return tensor

    def _damaged(self, what: str) -> GgufError:
        return GgufError(f"{what}; the file is damaged, fetch it again")
