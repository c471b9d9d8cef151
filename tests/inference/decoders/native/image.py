"""The memory of a native decoder and of passes over it, for a program of another processor (driver.cpp)."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Iterator
from ctypes import Array, Structure, c_void_p
from pathlib import Path
from typing import Any

from torch import Tensor

from inference.decoders.native.bank import NativeBank
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.native.library import ModelView, PassView

Regions = dict[int, tuple[int, Any]]
"""By address, how many bytes lie there and of which kind of `ctypes` they are; None: plain numbers."""


class Recorder:
    """In place of a decoder's library: every pass is copied before the decoder computes it."""

    def __init__(self, decoder: NativeDecoder, bank: NativeBank) -> None:
        self._library, self._decoder, self._bank = decoder._library, decoder, bank
        self._image = Image()
        self._passes: list[int] = []
        decoder._library = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def native_forward(self, handle: int, argument: Any) -> int:
        cache, *arrays = self._decoder._cache or ()
        self._image.know(of_tensors((*cache.keys, *cache.values)) | of_views(*arrays, self._bank.views))
        for view, weights, gates in self._bank._kept.values():
            pairs = weights.values()
            parts = [part for pair in pairs for part in (pair.a, pair.b, pair.scale) if part is not None]
            parts += [part for pair in pairs if pair.gate for part in pair.gate.tensors.values()]
            parts += [gate.ends for gate in gates]
            self._image.know(of_tensors(parts) | of_views(view, *(gate.view for gate in gates)))
        self._passes.append(self._image.place(argument._obj, self._own_regions(argument._obj)))
        return int(self._library.native_forward(handle, argument))

    def _own_regions(self, run: PassView) -> Regions:
        """What belongs to a pass alone."""
        positions, starts = (
            ctypes.cast(at, ctypes.POINTER(ctypes.c_int64)) for at in (run.positions, run.table_starts)
        )
        block_size = self._decoder._block_size
        num_blocks = max(starts[row] + positions[row] // block_size + 1 for row in range(run.rows))
        vocab = self._decoder._logits.shape[1]
        by_row = (run.token_ids, run.positions, run.cache_slots, run.adapters, run.table_starts)
        sizes = dict.fromkeys(by_row, run.rows * 8) | {
            run.tables: num_blocks * 8,
            run.sample_rows: run.num_samples * 8,
            run.hidden_rows: run.num_hidden * 8,
            run.logits: run.num_samples * vocab * 4,
            run.states: run.num_hidden * self._decoder.architecture.hidden_size * 4,
        }
        return {address: (size, None) for address, size in sizes.items() if size}

    def write(self, path: Path, model: ModelView) -> None:
        """The image of the decoder and of all passes, to `path`."""
        kept = self._decoder._kept
        self._image.know(of_tensors(part for part in kept if isinstance(part, Tensor)))
        self._image.know(of_views(*(part for part in kept if not isinstance(part, Tensor))))
        self._image.write(path, self._image.place(model, {}), self._passes)


class Image:
    """Structures, arrays and tensors behind one another, with the pointers among them as offsets."""

    def __init__(self) -> None:
        self._bytes = bytearray(64)
        self._pointers: list[int] = []
        self._known: Regions = {}
        self._placed: dict[int, int] = {}

    def know(self, regions: Regions) -> None:
        """What lies where as long as the image is made."""
        self._known |= regions

    def place(self, view: Structure | Array[Any], own: Regions) -> int:
        """The offset of a copy of `view` and of all that it points at; `own` is copied although it was before."""
        return self._copy(ctypes.addressof(view), ctypes.sizeof(view), type(view), own)

    def write(self, path: Path, model: int, passes: list[int]) -> None:
        numbers = (len(self._bytes), len(self._pointers), len(passes), model, *self._pointers, *passes)
        path.write_bytes(struct.pack(f"<{len(numbers)}q", *numbers) + self._bytes)

    def _copy(self, address: int, size: int, kind: Any, own: Regions) -> int:
        offset = len(self._bytes)
        self._bytes += ctypes.string_at(address, size)
        self._bytes += bytes(-len(self._bytes) % 64)
        for at in pointers_in(kind, offset):
            (target,) = struct.unpack_from("<Q", self._bytes, at)
            there = self._offset_of(target, own)
            struct.pack_into("<Q", self._bytes, at, there)
            self._pointers += [at] if there else []
        return offset

    def _offset_of(self, address: int, own: Regions) -> int:
        if address in own:
            return self._copy(address, *own[address], own)
        if address in self._known and address not in self._placed:
            self._placed[address] = self._copy(address, *self._known[address], own)
        return self._placed.get(address, 0)


def of_tensors(tensors: Iterable[Tensor]) -> Regions:
    return {tensor.data_ptr(): (tensor.numel() * tensor.itemsize, None) for tensor in tensors}


def of_views(*views: Structure | Array[Any]) -> Regions:
    return {ctypes.addressof(view): (ctypes.sizeof(view), type(view)) for view in views}


def pointers_in(kind: Any, offset: int) -> Iterator[int]:
    """Where the pointers of a thing of `kind` at `offset` lie."""
    if kind is c_void_p or hasattr(kind, "contents"):
        yield offset
    elif kind is not None and issubclass(kind, Structure):
        for name, field, *_ in kind._fields_:
            yield from pointers_in(field, offset + getattr(kind, name).offset)
    elif kind is not None and issubclass(kind, Array):
        for index in range(kind._length_):
            yield from pointers_in(kind._type_, offset + index * ctypes.sizeof(kind._type_))
