"""Norms with the residual sum that goes before them: a row is read once and written once.

The sums of a norm run over a whole row in one program, so a row's bits depend on that row alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.biased import load_biased
from inference.decoders.gpu.kernels.slot_table import INDEX
from inference.decoders.torch.norm import Shift, norm
from inference.model.spec import Norm

_TARGETS: tl.constexpr = tl.constexpr(len(INDEX))


@dataclass(frozen=True)
class SlotBiases:
    """Biases of a LayerNorm that the adapters of rows have: where `addresses` int64 [slots, columns] has those of each
    row's slot, `slots` int32 [rows], in `column`, and in them those of `layer`."""

    slots: Tensor
    addresses: Tensor
    column: int
    layer: int

    def at(self, rows: Tensor) -> SlotBiases:
        """The same of the `rows` int32 [n] alone."""
        return replace(self, slots=self.slots.index_select(0, rows))


@dataclass(frozen=True)
class Addends:
    """What comes to the residual stream: of one linear or of two that stand beside each other [rows, width].

    Each has its `biases` added, [width] or None. The first is then normed by `norm_weight`, if there is one, and by
    adapters' biases of it. The sum comes `multiplier` times.
    """

    rows: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    norm_weight: Tensor | None = None
    multiplier: float = 1.0
    slot_biases: SlotBiases | None = None

    def at(self, rows: Tensor) -> Addends:
        """The same of the `rows` int32 [n] alone."""
        parts, own = tuple(part.index_select(0, rows) for part in self.rows), self.slot_biases
        return replace(self, rows=parts, slot_biases=own and own.at(rows))


def add_and_norm(
    hidden: Tensor,
    addends: Addends | None,
    weight: Tensor | None,
    kind: Norm,
    eps: float,
    stream: float = 1.0,
    slot_biases: SlotBiases | None = None,
) -> Tensor:
    """Multiply `hidden` [rows, width] by `stream` and add `addends` in place, if there are any; its norm by `weight`
    and by adapters' biases.

    Weights are [width], or of a LayerNorm weight and bias [2, width]. Without one the result is `hidden` itself.
    """
    if addends is None and weight is None and stream == 1.0:
        return hidden
    num_rows, width = hidden.shape
    given = addends or Addends((), ())
    (first, second), (bias, second_bias) = ((*parts, None, None)[:2] for parts in (given.rows, given.biases))
    out = hidden if weight is None else torch.empty_like(hidden)
    _add_and_norm[(num_rows,)](
        hidden,
        first,
        bias,
        given.norm_weight,
        second,
        second_bias,
        weight,
        out,
        eps,
        float(given.multiplier),
        float(stream),
        *_of_adapters(given.slot_biases),
        *_of_adapters(slot_biases),
        IS_MULTIPLIED=given.multiplier != 1.0,
        IS_SCALED=stream != 1.0,
        IS_LAYER=kind is Norm.LAYER,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        num_warps=8,
    )
    return out


def _of_adapters(biases: SlotBiases | None) -> tuple[Tensor | None, Tensor | None, int, int]:
    return (None, None, 0, 0) if biases is None else (biases.slots, biases.addresses, biases.column, biases.layer)


def no_shift(normed: Tensor) -> None:
    """No adapter of the rows has a bias of a norm."""


def add_and_norm_twin(
    hidden: Tensor,
    addends: Addends | None,
    weight: Tensor | None,
    kind: Norm,
    eps: float,
    stream: float = 1.0,
    shift: Shift = no_shift,
    shift_addends: Shift = no_shift,
) -> Tensor:
    """What `add_and_norm` computes, with what adds the biases of adapters."""
    if stream != 1.0:
        hidden *= stream
    if addends is not None:
        first, *rest = (
            rows.float() if bias is None else rows.float() + bias
            for rows, bias in zip(addends.rows, addends.biases, strict=True)
        )
        if addends.norm_weight is not None:
            first = norm(kind, first, addends.norm_weight, eps, shift_addends)
        hidden += torch.stack((first, *rest)).sum(0) * addends.multiplier
    return hidden if weight is None else norm(kind, hidden, weight, eps, shift)


@triton.jit
def scaled(
    values: tl.tensor, scale: tl.tensor, weight: tl.tensor, bias: tl.tensor, inside: tl.tensor, IS_LAYER: tl.constexpr
) -> tl.tensor:
    """`values` times `scale`, which makes their mean square 1, and times the numbers at `weight`; of a LayerNorm plus
    those at `bias`. Values are rounded to the weights' type before, as the models were trained."""
    factor = tl.load(weight, mask=inside, other=0.0)
    normed = (values * scale).to(factor.dtype).to(tl.float32) if not IS_LAYER else values * scale
    normed *= factor.to(tl.float32)
    if IS_LAYER:
        normed += tl.load(bias, mask=inside, other=0.0).to(tl.float32)
    return normed


@triton.jit
def slot_bias(
    slots: tl.tensor,
    addresses: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    place: tl.tensor,
    inside: tl.tensor,
) -> tl.tensor:
    """What the adapter of `row` adds to a norm of `column`: its numbers at `place`, zeros where it has none."""
    slot = tl.load(slots + row)
    address = tl.load(addresses + slot * _TARGETS + column, mask=(slot >= 0) & (column >= 0), other=0)
    biases = address.to(tl.pointer_type(tl.float32)) + place
    return tl.load(biases, mask=inside & (address != 0), other=0.0)


@triton.jit
def _normed(
    values: tl.tensor,
    weight: tl.tensor,
    columns: tl.tensor,
    inside: tl.tensor,
    eps: tl.tensor,
    IS_LAYER: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """The norm of one row, in float32."""
    if IS_LAYER:
        values = tl.where(inside, values - tl.sum(values, axis=0) / WIDTH, 0.0)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / WIDTH + eps)
    return scaled(values, scale, weight + columns, weight + WIDTH + columns, inside, IS_LAYER)


@triton.jit(do_not_specialize=["first_column", "first_layer", "column", "layer"])
def _add_and_norm(
    hidden: tl.tensor,
    first: tl.tensor,
    bias: tl.tensor,
    norm_weight: tl.tensor,
    second: tl.tensor,
    second_bias: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    multiplier: tl.tensor,
    stream: tl.tensor,
    first_slots: tl.tensor,
    first_addresses: tl.tensor,
    first_column: tl.tensor,
    first_layer: tl.tensor,
    slots: tl.tensor,
    addresses: tl.tensor,
    column: tl.tensor,
    layer: tl.tensor,
    IS_MULTIPLIED: tl.constexpr,
    IS_SCALED: tl.constexpr,
    IS_LAYER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * WIDTH
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    kind = hidden.dtype.element_ty
    values = tl.load(hidden + row + columns, mask=inside, other=0.0).to(tl.float32)
    if IS_SCALED:
        values = (values * stream).to(kind).to(tl.float32)
    if first is not None:
        update = load_biased(first + row, bias, columns, inside)
        if norm_weight is not None:
            update = _normed(update, norm_weight, columns, inside, eps, IS_LAYER, WIDTH)
            if first_slots is not None:
                place = first_layer.to(tl.int64) * WIDTH + columns
                update += slot_bias(first_slots, first_addresses, tl.program_id(0), first_column, place, inside)
        if second is not None:
            update += load_biased(second + row, second_bias, columns, inside)
        if IS_MULTIPLIED:
            update *= multiplier
        values += update
    if IS_SCALED or first is not None:
        values = values.to(kind)
        tl.store(hidden + row + columns, values, mask=inside)
        values = values.to(tl.float32)
    if weight is not None:
        normed = _normed(values, weight, columns, inside, eps, IS_LAYER, WIDTH)
        if slots is not None:
            place = layer.to(tl.int64) * WIDTH + columns
            normed += slot_bias(slots, addresses, tl.program_id(0), column, place, inside)
        tl.store(out + row + columns, normed.to(kind), mask=inside)
