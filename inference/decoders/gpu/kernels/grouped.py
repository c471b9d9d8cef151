"""Products with weights in 8 or 4 bits, of which groups of 32 inputs share a scale and perhaps a minimum: no more than
these bits comes from memory, for they are expanded where they are multiplied.

One row waits for memory and for nothing else, so a program has few outputs and adds up by itself. More rows go through
tensor cores, a step of inputs after the other. How sums are cut depends on the shape of the weight and on how many rows
there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from inference.model.linear import GROUP, Int4Linear, Int8Linear, Linear

_GROUP: tl.constexpr = tl.constexpr(GROUP)


@dataclass(frozen=True)
class _Tile:
    """What one program of several rows has: rows, outputs, groups of inputs in a step, steps under way, and warps."""

    rows: int
    outputs: int
    groups: int
    stages: int
    warps: int


_OUTPUTS_OF_ROW: Final = 16
_GROUPS_OF_ROW: Final = 32
"""Outputs of a program that has one row, and groups of a step: of each output a warp reads 512 bytes at once."""
_TILES: Final = (_Tile(16, 32, 4, 4, 4), _Tile(32, 32, 4, 4, 4), _Tile(64, 64, 4, 3, 4), _Tile(128, 128, 2, 3, 8))
"""Where few rows wait for memory, more programs ask for it. No GPU has measured these yet."""


def product(linear: Linear, rows: Tensor) -> Tensor:
    """What `linear` makes of `rows` [n, in], by the kernels here if its weights are in groups."""
    return grouped_product(linear, rows) if isinstance(linear, Int8Linear | Int4Linear) else linear(rows)


def grouped_product(linear: Int8Linear | Int4Linear, rows: Tensor) -> Tensor:
    """rows [n, in] @ weight.T, in the rows' type."""
    (num_rows, width), (width_out, groups) = rows.shape, linear.scales.shape
    assert width == groups * GROUP, "a weight has whole groups of the rows' inputs"
    out = rows.new_empty((num_rows, width_out))
    mins = linear.mins if isinstance(linear, Int4Linear) else None
    given = (rows.contiguous(), linear.weight, linear.scales, mins, out)
    if num_rows == 1:
        grid = (triton.cdiv(width_out, _OUTPUTS_OF_ROW),)
        _multiply_row[grid](
            *given, GROUPS=groups, WIDTH_OUT=width_out, OUTPUTS=_OUTPUTS_OF_ROW, STEP=_GROUPS_OF_ROW, num_warps=4
        )
        return out
    tile = next((tile for tile in _TILES if num_rows <= tile.rows), _TILES[-1])
    # Programs of the same outputs follow one another, and find their weights in the cache.
    _multiply_rows[(triton.cdiv(num_rows, tile.rows), triton.cdiv(width_out, tile.outputs))](
        *given,
        num_rows,
        GROUPS=groups,
        WIDTH_OUT=width_out,
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        STEP=tile.groups,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def grouped_product_twin(linear: Int8Linear | Int4Linear, rows: Tensor) -> Tensor:
    """What `grouped_product` computes."""
    return functional.linear(rows, linear.dequantized(rows.dtype))


@triton.jit
def _levels(
    weight: tl.tensor,
    output: tl.tensor,
    group: tl.tensor,
    inside: tl.tensor,
    IS_INT4: tl.constexpr,
    GROUPS: tl.constexpr,
) -> tl.tensor:
    """What is stored of `output` [outputs, 1, 1] and `group` [1, groups, 1]: [outputs, groups, bytes]."""
    BYTES: tl.constexpr = _GROUP // 2 if IS_INT4 else _GROUP
    place = (output.to(tl.int64) * GROUPS + group) * BYTES + tl.arange(0, BYTES)[None, None, :]
    return tl.load(weight + place, mask=inside, other=0)


@triton.jit
def _multiply_row(
    rows: tl.tensor,
    weight: tl.tensor,
    scales: tl.tensor,
    mins: tl.tensor,
    out: tl.tensor,
    GROUPS: tl.constexpr,
    WIDTH_OUT: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((OUTPUTS, STEP), tl.float32)
    for first in range(0, GROUPS, STEP):
        group = first + tl.arange(0, STEP)
        inside = (output[:, None] < WIDTH_OUT) & (group[None, :] < GROUPS)
        levels = _levels(
            weight, output[:, None, None], group[None, :, None], inside[:, :, None], mins is not None, GROUPS
        )
        place = output[:, None].to(tl.int64) * GROUPS + group[None, :]
        scale = tl.load(scales + place, mask=inside, other=0.0).to(tl.float32)
        inputs = group[:, None] * _GROUP + tl.arange(0, _GROUP)[None, :]
        x = tl.load(rows + inputs, mask=group[:, None] < GROUPS, other=0.0)
        if mins is not None:
            even, odd = tl.split(tl.reshape(x, (STEP, _GROUP // 2, 2)))
            products = (levels & 15).to(tl.float32) * even[None, :, :].to(tl.float32)
            products += (levels >> 4).to(tl.float32) * odd[None, :, :].to(tl.float32)
            least = tl.load(mins + place, mask=inside, other=0.0).to(tl.float32)
            total += least * tl.sum(x.to(tl.float32), axis=1)[None, :]
        else:
            products = levels.to(tl.float32) * x[None, :, :].to(tl.float32)
        total += tl.sum(products, axis=2) * scale
    tl.store(out + output, tl.sum(total, axis=1).to(out.dtype.element_ty), mask=output < WIDTH_OUT)


@triton.jit(do_not_specialize=["num_rows"])
def _multiply_rows(
    rows: tl.tensor,
    weight: tl.tensor,
    scales: tl.tensor,
    mins: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    GROUPS: tl.constexpr,
    WIDTH_OUT: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[None, :]
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    kind = rows.dtype.element_ty
    total = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for first in range(0, GROUPS, STEP):
        group = (first + tl.arange(0, STEP))[None, :, None]
        inside = (output[:, None, None] < WIDTH_OUT) & (group < GROUPS)
        levels = _levels(weight, output[:, None, None], group, inside, mins is not None, GROUPS)
        place = output[:, None, None].to(tl.int64) * GROUPS + group
        scale = tl.load(scales + place, mask=inside, other=0.0).to(tl.float32)
        if mins is not None:
            least = tl.load(mins + place, mask=inside, other=0.0).to(tl.float32)
            low = ((levels & 15).to(tl.float32) * scale + least).to(kind)
            high = ((levels >> 4).to(tl.float32) * scale + least).to(kind)
            expanded = tl.reshape(tl.join(low, high), (OUTPUTS, STEP * _GROUP))
        else:
            expanded = tl.reshape((levels.to(tl.float32) * scale).to(kind), (OUTPUTS, STEP * _GROUP))
        inputs = first * _GROUP + tl.arange(0, STEP * _GROUP)[:, None]
        is_there = (row < num_rows) & (inputs < GROUPS * _GROUP)
        x = tl.load(rows + row * (GROUPS * _GROUP) + inputs, mask=is_there, other=0.0)
        total = tl.dot(expanded, x, total, input_precision="ieee")
    is_there = (output[:, None] < WIDTH_OUT) & (row < num_rows)
    tl.store(out + row * WIDTH_OUT + output[:, None], total.to(kind), mask=is_there)
