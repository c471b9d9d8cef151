"""Low-rank updates of many adapters in one batch (Hu et al., 2021): out += rows @ A @ B, each row with its own pair.

Decode rows are items of a batched product whose items have one row each; a prefill tile belongs to one
adapter and is a product of fixed shape. So what an adapter adds to a row depends on the row, the adapter and
the phase: not on the slot it sits in, nor on who else is there. Rows of the base are never touched.

An adapter with magnitudes (DoRA; Liu et al., 2024) multiplies its rows by a scale after that, and one with biases adds
them last, to the outputs of linears and of LayerNorms. A blend's rows @ A are multiplied by what its gate makes of the
row (`inference.decoders.torch.gating`). The embedding is a target whose "rows" are one-hot, so A is
looked up; the head and the norm before it see the rows that are sampled, each by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from inference.adapters.slots import Bank
from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.decoders.batch import Batch
from inference.decoders.coefficients import coefficient_sums
from inference.decoders.torch.gating import weighed
from inference.decoders.torch.panels import Layout
from inference.model.architecture import EMBEDDING, HEAD
from inference.model.spec import LAST_NORM

_SAMPLED: Final = (HEAD, LAST_NORM)
"""Targets that see the sampled rows alone."""


@dataclass
class DecodeGroup:
    """Decode rows whose adapters have one rank in a target: `rows` int64 [n], and the pairs of each row.

    Their pairs have the same parts, and one gate or none. The stacked pairs are kept for the next steps, which mostly
    have the same rows.
    """

    rows: Tensor
    weights: list[TargetWeights]
    _stacks: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def add(self, layer: int, rows: Tensor, out: Tensor, residual: Tensor | None, told: Tensor | None) -> None:
        """Add these rows' updates to `out` in place, and what a gate makes of them to `told`; `residual` is the stream
        where the layer began."""
        stacks = self._stacked(layer)
        inputs = rows[self.rows].unsqueeze(1)
        shrunk = torch.bmm(inputs, stacks["a"])
        if gate := self.weights[0].gate:
            seen = residual[self.rows].unsqueeze(1) if gate.kind == "flow" and residual is not None else inputs
            shrunk, coefficients = weighed(gate, layer, shrunk, seen)
            _tell(told, self.rows, coefficients.squeeze(1))
        updated = torch.baddbmm(out[self.rows].unsqueeze(1), shrunk, stacks["b"]).squeeze(1)
        out[self.rows] = _finished(updated, stacks.get("scale"), stacks.get("bias"))

    def shift(self, layer: int, normed: Tensor) -> None:
        """Add these rows' biases of a norm to `normed` in place."""
        normed[self.rows] += self._stacked(layer)["bias"].view(-1, *normed.shape[1:])

    def _stacked(self, layer: int) -> dict[str, Tensor]:
        if layer not in self._stacks:
            parts = [{name: part[layer] for name, part in pair.parts.items()} for pair in self.weights]
            self._stacks[layer] = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        return self._stacks[layer]


@dataclass(frozen=True)
class TileGroup:
    """The padded rows `rows` of one adapter, which are a tile or a single row, and its pairs.

    The first `num_before` of a tile are the base's: computed with the others, since products are of fixed shape, and
    left as they are.
    """

    rows: slice
    weights: TargetWeights
    num_before: int = 0

    @property
    def changed(self) -> slice:
        """The rows that are the adapter's."""
        return slice(self.rows.start + self.num_before, self.rows.stop)

    def add(self, layer: int, rows: Tensor, out: Tensor, residual: Tensor | None, told: Tensor | None) -> None:
        """Add these rows' updates to `out` in place, and what a gate makes of them to `told`; `residual` is the stream
        where the layer began."""
        shrunk = rows[self.rows] @ self.weights.a[layer]
        if gate := self.weights.gate:
            seen = residual if gate.kind == "flow" and residual is not None else rows
            shrunk, coefficients = weighed(gate, layer, shrunk, seen[self.rows])
            _tell(told, self.rows, coefficients)
        self._expand(layer, shrunk, out)

    def embed(self, token_ids: Tensor, out: Tensor) -> None:
        """Add the updates of the embeddings of `token_ids` [padded rows] to `out` [padded rows, hidden] in place."""
        self._expand(0, self.weights.a[0][token_ids[self.rows]], out)

    def shift(self, layer: int, normed: Tensor) -> None:
        """Add these rows' biases of a norm to `normed` in place."""
        assert self.weights.bias is not None, "a norm has a bias and nothing else"
        normed[self.changed] += self.weights.bias[layer].view(normed.shape[1:])

    def _expand(self, layer: int, shrunk: Tensor, out: Tensor) -> None:
        updated = torch.addmm(out[self.rows], shrunk, self.weights.b[layer])
        scale, bias = (None if part is None else part[layer] for part in (self.weights.scale, self.weights.bias))
        out[self.changed] = _finished(updated, scale, bias)[self.num_before :]


def _tell(told: Tensor | None, rows: Tensor | slice, coefficients: Tensor) -> None:
    """Add the coefficients [n, parts] of `rows`; a row that is there twice counts once."""
    assert told is not None, "who has a gate is in a slot"
    told[rows, : coefficients.shape[1]] += coefficients
    told[rows, -1] += 1


def _finished(rows: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """`rows` times `scale` plus `bias`, in float32: in bfloat16 a scale near 1 would lose most of its digits."""
    wide = rows if scale is None else rows * scale
    return (wide if bias is None else wide + bias).to(rows.dtype)


@dataclass
class LoraPlan:
    """For each target, who adds to which rows of a pass."""

    decodes: dict[str, list[DecodeGroup]]
    tiles: dict[str, list[TileGroup]]
    hidden: list[TileGroup]
    """Of the hidden rows, in their order: biases of the norm before the head."""
    told: Tensor | None = None
    """Of each padded row the sums of `inference.decoders.coefficients`, where a blend is in a slot."""
    residual: Tensor | None = None
    """The residual stream [padded rows, hidden] where the layer at hand began, before its norm."""

    def add(self, target: str, layer: int, rows: Tensor, out: Tensor) -> Tensor:
        """`out` [padded rows, out], to which the updates of `target` in `layer` for `rows` [padded rows, in] are added.

        For ``lm_head`` rows are the sampled ones in their order.
        """
        for group in self.decodes.get(target, ()):
            group.add(layer, rows, out, self.residual, self.told)
        for tile in self.tiles.get(target, ()):
            tile.add(layer, rows, out, self.residual, self.told)
        return out

    def embed(self, token_ids: Tensor, out: Tensor) -> None:
        """Add the updates of the embedding for `token_ids` [padded rows] to `out` [padded rows, hidden] in place."""
        for tile in self.tiles.get(EMBEDDING, ()):
            tile.embed(token_ids, out)

    def shift(self, norm: str, layer: int, normed: Tensor) -> None:
        """Add the biases of `norm` to the rows `normed` float32 [padded rows, ...] in place."""
        for group in (*self.decodes.get(norm, ()), *self.tiles.get(norm, ())):
            group.shift(layer, normed)

    def shift_hidden(self, normed: Tensor) -> None:
        """The same of the last norm for the hidden rows."""
        for group in self.hidden:
            group.shift(0, normed)


class LoraBank(Bank):
    """The weights by slot. It forgets the plan of the last decode rows when a slot changes."""

    def __init__(self) -> None:
        self._slots: dict[int, AdapterWeights] = {}
        self._last: tuple[tuple[int, ...], dict[str, list[DecodeGroup]]] | None = None

    def put(self, slot: int, weights: AdapterWeights) -> None:
        self._slots[slot] = weights
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
            own = slots[segment.start : segment.start + segment.length]
            for target, weights in self._weights(own[-1]).items():
                if target not in _SAMPLED:
                    tiles[target].append(TileGroup(layout.tile(index), weights, own.index(own[-1])))
        tiles[EMBEDDING] += self._row_by_row(EMBEDDING, decode_slots)
        hidden: list[TileGroup] = []
        if any(target in weights for weights in self._slots.values() for target in _SAMPLED):
            sampled, wanted = ([slots[row] for row in rows.tolist()] for rows in (batch.sample_rows, batch.hidden_rows))
            tiles |= {target: self._row_by_row(target, sampled) for target in _SAMPLED}
            hidden = self._row_by_row(LAST_NORM, wanted)
        has_gates = any(pair.gate for weights in self._slots.values() for pair in weights.values())
        told = coefficient_sums(len(layout.source)) if has_gates else None
        return LoraPlan(self._last[1], tiles, hidden, told)

    def _weights(self, slot: int) -> AdapterWeights:
        return {} if slot < 0 else self._slots[slot]

    def _row_by_row(self, target: str, slots: Sequence[int]) -> list[TileGroup]:
        """Rows of `slots` one by one: stacked pairs as wide as the vocabulary would be many times the adapter."""
        owned = [(row, self._weights(slot).get(target)) for row, slot in enumerate(slots)]
        return [TileGroup(slice(row, row + 1), weights) for row, weights in owned if weights is not None]

    def _plan_decodes(self, slots: tuple[int, ...]) -> dict[str, list[DecodeGroup]]:
        alike: dict[tuple[str, int, tuple[str, ...], int], list[tuple[int, TargetWeights]]] = defaultdict(list)
        for row, slot in enumerate(slots):
            for target, weights in self._weights(slot).items():
                if target not in (EMBEDDING, *_SAMPLED):
                    alike[target, weights.rank, tuple(weights.parts), id(weights.gate)].append((row, weights))
        groups: dict[str, list[DecodeGroup]] = defaultdict(list)
        for (target, *_), members in alike.items():
            # A batched product of one item is another kernel than one of more, so a lone row comes twice.
            members *= 2 if len(members) == 1 else 1
            rows = torch.tensor([row for row, _ in members], dtype=torch.int64)
            groups[target].append(DecodeGroup(rows, [weights for _, weights in members]))
        return groups
