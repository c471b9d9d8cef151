"""The shape of all arithmetic: rows are computed in panels of a fixed number of rows, padded where needed.

A matrix product's bits may depend on how many rows it has (kernels are chosen by shape), so no product ever
sees the size of the batch: decode rows are computed `DECODE_PANEL` at a time, prefill `TILE` at a time. Within
a panel of fixed shape a row's bits depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.decoders.batch import Batch
from inference.tile import TILE

DECODE_PANEL: Final = 16
"""Rows of a decode panel: what one row costs, sixteen cost too, since reading the weights is what takes time."""


@dataclass(frozen=True)
class Layout:
    """Where the rows of a batch lie once padded: decode panels first, then one panel for each tile.

    `source` int64 [padded rows] is the batch row that fills each padded row (padding repeats a real row),
    `places` int64 [rows] the padded row of each batch row, `num_decodes` the real rows of the decode panels.
    """

    source: Tensor
    places: Tensor
    num_decodes: int
    decode_rows: int
    num_tiles: int

    @property
    def panels(self) -> list[slice]:
        """The panels in order, as slices of padded rows."""
        tiles = [self.tile(index) for index in range(self.num_tiles)]
        return [slice(at, at + DECODE_PANEL) for at in range(0, self.decode_rows, DECODE_PANEL)] + tiles

    def tile(self, index: int) -> slice:
        """The padded rows of tile `index`."""
        start = self.decode_rows + index * TILE
        return slice(start, start + TILE)


def lay_out(batch: Batch) -> Layout:
    """Order the rows of `batch` into panels."""
    decodes = [segment.start for segment in batch.decodes]
    decode_rows = -(-len(decodes) // DECODE_PANEL) * DECODE_PANEL
    source = decodes + decodes[-1:] * (decode_rows - len(decodes))
    places = [0] * len(batch.token_ids)
    for place, row in enumerate(decodes):
        places[row] = place
    for segment in batch.tiles:
        rows = list(range(segment.start, segment.start + segment.length))
        for row in rows:
            places[row] = len(source) + row - segment.start
        source += rows + rows[-1:] * (TILE - segment.length)
    device = batch.token_ids.device
    return Layout(
        source=torch.tensor(source, dtype=torch.int64, device=device),
        places=torch.tensor(places, dtype=torch.int64, device=device),
        num_decodes=len(decodes),
        decode_rows=decode_rows,
        num_tiles=len(batch.tiles),
    )


def by_panel(function: Callable[[Tensor], Tensor], rows: Tensor, panels: list[slice]) -> Tensor:
    """Apply `function` to each panel of `rows` [padded rows, n] by itself and put the results together."""
    if len(panels) == 1:
        return function(rows)
    return torch.cat([function(rows[panel]) for panel in panels])
