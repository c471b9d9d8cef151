"""Low-rank updates of many adapters in one batch (Hu et al., 2021): out += rows @ A @ B, each row with its own pair.

Decode rows are items of a batched product whose items have one row each; a prefill tile belongs to one
adapter and is a product of fixed shape. So what an adapter adds to a row depends on the row, the adapter and
the phase: not on the slot it sits in, nor on who else is there. Rows of the base are never touched.

An adapter with magnitudes (DoRA; Liu et al., 2024) multiplies its rows by a scale after that. The embedding is
a target whose "rows" are one-hot, so A is looked up; the head sees the rows that are sampled, each by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.adapters.slots import Bank
from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.decoders.batch import Batch
from inference.decoders.torch.panels import Layout
from inference.model.architecture import EMBEDDING, HEAD


@dataclass
class DecodeGroup:
    """Decode rows whose adapters have one rank in a target: `rows` int64 [n], and the pairs of each row.

    Either all of them have a scale or none. The stacked pairs are kept for the next steps, which mostly have the
    same rows.
    """

    rows: Tensor
    weights: list[TargetWeights]
    _stacks: dict[int, tuple[Tensor, Tensor, Tensor | None]] = field(default_factory=dict)

    def add(self, layer: int, rows: Tensor, out: Tensor) -> None:
        """Add these rows' updates to `out` in place."""
        a, b, scale = self._stacked(layer)
        shrunk = torch.bmm(rows[self.rows].unsqueeze(1), a)
        updated = torch.baddbmm(out[self.rows].unsqueeze(1), shrunk, b).squeeze(1)
        out[self.rows] = _scaled(updated, scale)

    def _stacked(self, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
        kept = self._stacks.get(layer)
        if kept is None:
            a = torch.stack([pair.a[layer] for pair in self.weights])
            b = torch.stack([pair.b[layer] for pair in self.weights])
            scales = [pair.scale[layer] for pair in self.weights if pair.scale is not None]
            kept = self._stacks[layer] = a, b, torch.stack(scales) if scales else None
        return kept


@dataclass(frozen=True)
class TileGroup:
    """The padded rows `rows` of one adapter, which are a tile or a single row, and its pairs."""

    rows: slice
    weights: TargetWeights

    def add(self, layer: int, rows: Tensor, out: Tensor) -> None:
        """Add these rows' updates to `out` in place."""
        self._expand(layer, rows[self.rows] @ self.weights.a[layer], out)

    def embed(self, token_ids: Tensor, out: Tensor) -> None:
        """Add the updates of the embeddings of `token_ids` [padded rows] to `out` [padded rows, hidden] in place."""
        self._expand(0, self.weights.a[0][token_ids[self.rows]], out)

    def _expand(self, layer: int, shrunk: Tensor, out: Tensor) -> None:
        updated = torch.addmm(out[self.rows], shrunk, self.weights.b[layer])
        out[self.rows] = _scaled(updated, None if self.weights.scale is None else self.weights.scale[layer])


def _scaled(rows: Tensor, scale: Tensor | None) -> Tensor:
    """`rows` times `scale`, multiplied in float32: rounded to bfloat16 a scale near 1 would lose most of its digits."""
    return rows if scale is None else (rows * scale).to(rows.dtype)


@dataclass(frozen=True)
class LoraPlan:
    """For each target, who adds to which rows of a pass."""

    decodes: dict[str, list[DecodeGroup]]
    tiles: dict[str, list[TileGroup]]

    def add(self, target: str, layer: int, rows: Tensor, out: Tensor) -> Tensor:
        """`out` [padded rows, out], to which the updates of `target` in `layer` for `rows` [padded rows, in] are added.

        For ``lm_head`` rows are the sampled ones in their order.
        """
        for group in self.decodes.get(target, ()):
            group.add(layer, rows, out)
        for tile in self.tiles.get(target, ()):
            tile.add(layer, rows, out)
        return out

    def embed(self, token_ids: Tensor, out: Tensor) -> None:
        """Add the updates of the embedding for `token_ids` [padded rows] to `out` [padded rows, hidden] in place."""
        for tile in self.tiles.get(EMBEDDING, ()):
            tile.embed(token_ids, out)


class LoraBank(Bank):
    """The weights by slot, on `device`. It forgets the plan of the last decode rows when a slot changes."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._slots: dict[int, AdapterWeights] = {}
        self._last: tuple[tuple[int, ...], dict[str, list[DecodeGroup]]] | None = None

    def put(self, slot: int, weights: AdapterWeights) -> None:
        self._slots[slot] = {target: pair.to(self._device) for target, pair in weights.items()}
        self._last = None

    def clear(self, slot: int) -> None:
        del self._slots[slot]
        self._last = None

    def plan(self, batch: Batch, layout: Layout) -> LoraPlan:
        """Who adds to which rows of `batch`; the decode part of the last plan is kept while its slots are the same."""
        slots = batch.adapter_slots.tolist()
        decode_slots = tuple(slots[segment.start] for segment in batch.decodes)
        if self._last is None or self._last[0] != decode_slots:
            self._last = decode_slots, self._plan_decodes(decode_slots)
        tiles: dict[str, list[TileGroup]] = defaultdict(list)
        for index, segment in enumerate(batch.tiles):
            for target, weights in self._weights(slots[segment.start]).items():
                if target != HEAD:
                    tiles[target].append(TileGroup(layout.tile(index), weights))
        tiles[EMBEDDING] += self._row_by_row(EMBEDDING, decode_slots)
        if any(HEAD in weights for weights in self._slots.values()):
            tiles[HEAD] = self._row_by_row(HEAD, [slots[row] for row in batch.sample_rows.tolist()])
        return LoraPlan(self._last[1], tiles)

    def _weights(self, slot: int) -> AdapterWeights:
        return {} if slot < 0 else self._slots[slot]

    def _row_by_row(self, target: str, slots: Sequence[int]) -> list[TileGroup]:
        """Rows of `slots` one by one: stacked pairs as wide as the vocabulary would be many times the adapter."""
        owned = [(row, self._weights(slot).get(target)) for row, slot in enumerate(slots)]
        return [TileGroup(slice(row, row + 1), weights) for row, weights in owned if weights is not None]

    def _plan_decodes(self, slots: tuple[int, ...]) -> dict[str, list[DecodeGroup]]:
        alike: dict[tuple[str, int, bool], list[tuple[int, TargetWeights]]] = defaultdict(list)
        for row, slot in enumerate(slots):
            for target, weights in self._weights(slot).items():
                if target not in (EMBEDDING, HEAD):
                    alike[target, weights.rank, weights.scale is None].append((row, weights))
        groups: dict[str, list[DecodeGroup]] = defaultdict(list)
        for (target, *_), members in alike.items():
            # A batched product of one item is another kernel than one of more, so a lone row comes twice.
            members *= 2 if len(members) == 1 else 1
            rows = torch.tensor([row for row, _ in members], dtype=torch.int64, device=self._device)
            groups[target].append(DecodeGroup(rows, [weights for _, weights in members]))
        return groups
