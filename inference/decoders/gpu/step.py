"""A batch as a GPU computes it: rows in a fixed order and number, and all that is said of them in one copy.

Decode rows come first, sorted by slot so that rows of one adapter find its weights in the L2 cache; then the tiles,
each of `TILE` rows. Both are padded to numbers that a captured graph has. Padding writes nothing, attends to nothing
and has no adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from inference.decoders.batch import Batch, Segment
from inference.decoders.gpu.kernels.paged_attention import SPLIT, Segments
from inference.decoders.gpu.target_modules import TargetModules
from inference.tile import TILE

PANEL: Final = 128
"""Rows of every product where bits may not depend on the batch: about as many as reading the weights hides."""
_DECODES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
"""Decode rows of a pass of their own."""
_DECODES_BESIDE_TILES: Final = (0, 16, 32, 64, 128)
"""Fewer numbers, as there are as many graphs for each number of tiles, and a row among those of tiles costs little."""
_TILES: Final = (1, 2, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class StepShape:
    """How many decode rows and tiles, padding included, and how many blocks and splits their tables have room for.

    Logits are computed of `num_samples` rows. `targets` is what the adapters of its rows may change.
    """

    decode_rows: int
    num_tiles: int
    num_samples: int
    width: int
    splits: int
    targets: TargetModules = TargetModules.ALL

    @property
    def num_rows(self) -> int:
        return self.decode_rows + TILE * self.num_tiles

    @property
    def sizes(self) -> list[int]:
        """Lengths of the parts of a `Step`, in order."""
        segments = (self.decode_rows, self.num_tiles)
        per_segment = [count * size for count in segments for size in (1, 1, self.width)]
        return [self.num_rows] * 4 + per_segment + [self.num_samples]


@dataclass(frozen=True)
class Step:
    """A pass on the device. `token_ids`, `positions`, `cache_slots` and `slots` are int32 [rows].

    `samples` int32 [samples] are the rows whose logits are wanted, in order, and after them any.
    """

    shape: StepShape
    token_ids: Tensor
    positions: Tensor
    cache_slots: Tensor
    slots: Tensor
    decodes: Segments
    tiles: Segments
    samples: Tensor


def round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def shape_of(batch: Batch, block_size: int, is_deterministic: bool) -> StepShape:
    """The shape that `batch` is padded to: one of few, each a graph."""
    longest = max(segment.context for segment in batch.decodes + batch.tiles)
    decodes, tiles = len(batch.decodes), len(batch.tiles)
    if not tiles:
        return decode_shape(decodes, longest, block_size, is_deterministic)
    if is_deterministic:
        decodes, tiles = round_up(decodes, PANEL), round_up(tiles, PANEL // TILE)
    else:
        decodes, tiles = _bucket(decodes, _DECODES_BESIDE_TILES, 64), _bucket(tiles, _TILES, 16)
    # Of a tile the last row is sampled, if any; who wants more of them gets room for all.
    usual, wanted = decodes + tiles, len(batch.sample_rows)
    return _shape(decodes, tiles, usual if wanted <= usual else decodes + tiles * TILE, longest, block_size)


def decode_shape(rows: int, context: int, block_size: int, is_deterministic: bool) -> StepShape:
    """The shape of a pass of `rows` decode rows whose longest context is `context`."""
    padded = round_up(rows, PANEL) if is_deterministic else _bucket(rows, _DECODES, 32)
    return _shape(padded, 0, padded, context, block_size)


def _bucket(count: int, buckets: tuple[int, ...], beyond: int) -> int:
    """The next of `buckets`, and past the last a multiple of `beyond`."""
    return next((size for size in buckets if count <= size), round_up(count, beyond))


def _shape(decode_rows: int, num_tiles: int, num_samples: int, context: int, block_size: int) -> StepShape:
    splits = 1 << (-(-context // SPLIT) - 1).bit_length()
    return StepShape(decode_rows, num_tiles, num_samples, -(-splits * SPLIT // block_size), splits)


class Staging:
    """The memory of a `Step`, on the host and on the device: `fill` and the device has it."""

    def __init__(self, shape: StepShape, device: torch.device) -> None:
        self.shape = shape
        is_cuda = device.type == "cuda"
        self._host = torch.zeros(sum(shape.sizes), dtype=torch.int32, pin_memory=is_cuda)
        self._device = torch.zeros_like(self._host, device=device)
        self._parts = [part.numpy() for part in torch.split(self._host, shape.sizes)]
        self._sent = torch.cuda.Event() if is_cuda else None
        self.step = self._step()
        self._wipe()
        self._send()

    def fill(self, batch: Batch) -> None:
        """Send `batch`: its rows may lie in another order in the step."""
        if self._sent is not None:
            self._sent.synchronize()
        self._wipe()
        tensors = (batch.token_ids, batch.positions, batch.cache_slots, batch.adapter_slots)
        columns = [tensor.tolist() for tensor in tensors]
        slots, rows = columns[3], [0] * len(columns[3])
        decodes = sorted(batch.decodes, key=lambda segment: slots[segment.start])
        for index, segment in enumerate(decodes):
            self._segment(segment, index, index, 4, columns, rows)
        for index, segment in enumerate(batch.tiles):
            first = self.shape.decode_rows + index * TILE
            self._parts[3][first : first + TILE] = slots[segment.start + segment.length - 1]
            self._segment(segment, index, first, 7, columns, rows)
        samples = batch.sample_rows.tolist()
        self._parts[10][: len(samples)] = [rows[row] for row in samples]
        self._send()

    def _segment(
        self, segment: Segment, index: int, first: int, part: int, columns: list[list[int]], rows: list[int]
    ) -> None:
        """Write one segment, number `index` of its kind, whose parts begin at `part`, to the rows from `first` on."""
        source = slice(segment.start, segment.start + segment.length)
        target = slice(first, first + segment.length)
        for number, column in enumerate(columns):
            self._parts[number][target] = column[source]
        rows[source] = range(first, first + segment.length)
        starts, contexts, tables = self._parts[part : part + 3]
        starts[index], contexts[index] = segment.context - segment.length, segment.context
        table = segment.block_table[: self.shape.width]
        tables[index * self.shape.width :][: len(table)] = table

    def _wipe(self) -> None:
        """Make every row padding."""
        for part, value in ((2, -1), (3, -1), (5, 0), (8, 0)):
            self._parts[part][:] = np.int32(value)

    def _send(self) -> None:
        self._device.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def _step(self) -> Step:
        shape, parts = self.shape, torch.split(self._device, self.shape.sizes)
        decode_tables = parts[6].view(shape.decode_rows, shape.width)
        tile_tables = parts[9].view(shape.num_tiles, shape.width)
        decodes = Segments(0, 1, parts[4], parts[5], decode_tables, shape.splits)
        tiles = Segments(shape.decode_rows, TILE, parts[7], parts[8], tile_tables)
        return Step(shape, parts[0], parts[1], parts[2], parts[3], decodes, tiles, parts[10])
