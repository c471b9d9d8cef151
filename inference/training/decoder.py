"""The decoder as training computes it: examples of several adapters side by side over one frozen base.

All rows go through the base's products together, and each adapter's update is applied to its own rows, as in serving
(mLoRA, arXiv 2312.02515). Only attention looks at one adapter's rectangle of examples at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.decoders.native.build import BuildError, library_path
from inference.decoders.native.library import best_unit, open_library
from inference.model.architecture import Architecture, untrained
from inference.model.linear import Linear, PlainLinear
from inference.model.rotary import Rotary
from inference.model.weights import DecoderWeights, LayerWeights
from inference.training.adapter import OfPairs, Pairs
from inference.training.mixed import MixedBatch, Rectangle
from inference.training.operators import Place, adapted_linear, answer_loss, attend, rms_norm, rope, swiglu

Shares = Callable[[str, int, Tensor, Tensor], tuple[Tensor, Tensor] | None]
"""What a blend makes of the rows of its examples in one pass: for a target and a layer, of its inputs and of the
residual stream where the layer began, ``rows @ a`` as its gate weighs it, and the `b` that it is multiplied by."""


@dataclass
class _Pass:
    """What the layers of one pass share. `shares` are those of each rectangle, None for what is no blend, and `acting`
    is of each what `Rectangle.acting` says; `residual` is the stream where the layer at hand began."""

    batch: MixedBatch
    pairs: Sequence[Pairs]
    scalings: Sequence[float]
    shares: Sequence[Shares | None]
    cos: Tensor
    sin: Tensor
    acting: Sequence[Tensor | None]
    residual: Tensor


@runtime_checkable
class Blended(Protocol):
    """An adapter that is a blend, besides: what its parts do cannot be said by pairs, but for rows at hand."""

    def shares(self, rectangle: Rectangle) -> Shares: ...


class TrainingDecoder:
    """The base, which stays as it is; adapters and their examples come with each call."""

    def __init__(self, architecture: Architecture, weights: DecoderWeights) -> None:
        """Raises ValueError for a base whose gradients are not computed here."""
        self.architecture = architecture
        self._check()
        self.weights = _fast_to_multiply(weights)
        self._rotary = Rotary(architecture, weights.dtype, weights.device)
        self._width = architecture.num_heads * architecture.head_dim
        self._kv_width = architecture.num_kv_heads * architecture.head_dim
        self._columns = self._stacked_columns()

    def losses(self, batch: MixedBatch, adapters: Sequence[OfPairs]) -> Tensor:
        """The mean loss of each adapter's answers in nats a token, float32 [adapters].

        `batch` has a rectangle for each of `adapters`. The gradient of the sum gives every adapter what it would
        get alone. Raises ValueError for rows that are longer than the base's window.
        """
        losses = self.token_losses(batch, adapters)
        sums = losses.new_zeros(len(adapters)).index_add(0, batch.owners, losses)
        return sums / torch.bincount(batch.owners, minlength=len(adapters))

    def token_losses(self, batch: MixedBatch, adapters: Sequence[OfPairs]) -> Tensor:
        """The loss of each token of the answers in nats, float32 [answers]; see `losses`."""
        if self.architecture.sliding_window is not None:
            self._check(longest=int(batch.positions[batch.answers].max()) + 1)
        pairs, scalings = [adapter.pairs() for adapter in adapters], [adapter.scaling for adapter in adapters]
        shares = [
            adapter.shares(rectangle) if isinstance(adapter, Blended) else None
            for adapter, rectangle in zip(adapters, batch.rectangles, strict=True)
        ]
        hidden = self.weights.embedding[batch.token_ids]
        acting = [rectangle.acting(hidden) for rectangle in batch.rectangles]
        run = _Pass(batch, pairs, scalings, shares, *self._rotary.at(batch.positions), acting, residual=hidden)
        for index, layer in enumerate(self.weights.layers):
            run.residual = hidden
            hidden = hidden + self._attention(index, layer, hidden, run)
            hidden = hidden + self._mlp(index, layer, hidden, run)
        normed = self._norm(hidden[batch.answers], self.weights.norm)
        return answer_loss(normed, _matrix(self.weights.head), batch.next_ids[batch.answers])

    def _check(self, longest: int = 0) -> None:
        if beyond := untrained(self.architecture, longest):
            takes = f"which takes the gradients of {', '.join(beyond)}"
            raise ValueError(f"{self.architecture.name} cannot be trained here, {takes}")

    def _attention(self, index: int, layer: LayerWeights, hidden: Tensor, run: _Pass) -> Tensor:
        rows = self._norm(hidden, layer.attention_norm)
        qkv = self._linear(("q_proj", "k_proj", "v_proj"), index, layer.qkv, rows, run)
        turned, values = torch.split(qkv, [self._width + self._kv_width, self._kv_width], dim=-1)
        turned = rope(self._heads(turned), run.cos, run.sin)
        queries, keys = torch.split(turned, [self.architecture.num_heads, self.architecture.num_kv_heads], dim=1)
        attended = [self._attend(queries, keys, self._heads(values), rectangle) for rectangle in run.batch.rectangles]
        return self._linear(("o_proj",), index, layer.o, torch.cat(attended), run)

    def _mlp(self, index: int, layer: LayerWeights, hidden: Tensor, run: _Pass) -> Tensor:
        rows = self._norm(hidden, layer.mlp_norm)
        gate_up = self._linear(("gate_proj", "up_proj"), index, layer.gate_up, rows, run)
        return self._linear(("down_proj",), index, layer.down, swiglu(gate_up), run)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, part: Rectangle) -> Tensor:
        """Causal attention within each example of `part`; padding lies on the right, where no token looks."""
        queries, keys, values = (self._by_kv_head(heads[part.rows], part) for heads in (queries, keys, values))
        attended = attend(queries, keys, values)
        heads = attended.view(part.examples, self.architecture.num_heads, part.length, -1)
        return heads.transpose(1, 2).reshape(-1, self._width)

    def _by_kv_head(self, heads: Tensor, part: Rectangle) -> Tensor:
        """`heads` [rows, heads, dim] of `part` as [examples * KV heads, heads of a KV head * length, dim]."""
        apart = heads.view(part.examples, part.length, -1, self.architecture.head_dim).transpose(1, 2)
        return apart.reshape(part.examples * self.architecture.num_kv_heads, -1, self.architecture.head_dim)

    def _linear(self, targets: Sequence[str], index: int, linear: Linear, rows: Tensor, run: _Pass) -> Tensor:
        places, factors = [], []
        each_adapters = zip(run.batch.rectangles, run.pairs, run.scalings, run.acting, strict=True)
        for rectangle, layers, scaling, acting in each_adapters:
            for target in targets:
                if pair := layers[index].get(target):
                    places.append(Place(rectangle.rows, self._columns[target], scaling, acting))
                    factors += [pair.a, pair.b]
        out = adapted_linear(rows, _matrix(linear), places, *factors)
        for rectangle, shares in zip(run.batch.rectangles, run.shares, strict=True):
            for target in targets if shares else ():
                own, columns = rectangle.rows, self._columns[target]
                if shares and (found := shares(target, index, rows[own], run.residual[own])):
                    out[own, columns] = torch.addmm(out[own, columns], *found)
        return out

    def _norm(self, rows: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(rows, weight, self.architecture.norm_eps)

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.view(len(rows), -1, self.architecture.head_dim)

    def _stacked_columns(self) -> dict[str, slice]:
        """The columns of each target in its stacked linear."""
        columns = {}
        for stack in (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)):
            start = 0
            for target in stack:
                columns[target] = slice(start, start + self.architecture.target_shape(target)[1])
                start = columns[target].stop
        return columns


def _fast_to_multiply(weights: DecoderWeights) -> DecoderWeights:
    """`weights`, on a CPU with matrices in float32 unless it multiplies bfloat16 faster."""
    if weights.device.type != "cpu" or weights.dtype != torch.bfloat16 or _is_fast_in_bfloat16():
        return weights
    layers = tuple(
        LayerWeights(
            layer.attention_norm,
            _widened(layer.qkv),
            _widened(layer.o),
            layer.mlp_norm,
            _widened(layer.gate_up),
            _widened(layer.down),
        )
        for layer in weights.layers
    )
    return replace(weights, layers=layers, head=_widened(weights.head))


def _is_fast_in_bfloat16() -> bool:
    try:
        return best_unit(open_library(library_path())) in ("amx", "avx512_bf16")
    except BuildError:
        return False


def _widened(linear: Linear) -> Linear:
    return PlainLinear(_matrix(linear).to(torch.float32))


def _matrix(linear: Linear) -> Tensor:
    if not isinstance(linear, PlainLinear):
        raise TypeError("a quantised base is not trained here; load it with quantization none")
    return linear.weight
