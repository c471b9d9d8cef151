"""RMSNorm with the residual sum that goes before it: a row is read once and written once.

The sum of squares runs over a whole row in one program, so a row's bits depend on that row alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def add_rms_norm(hidden: Tensor, update: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add `update` [rows, width] to `hidden` in place, if there is one; the norm of the sum, scaled by `weight`."""
    out = torch.empty_like(hidden)
    num_rows, width = hidden.shape
    block = triton.next_power_of_2(width)
    added = hidden if update is None else update
    _add_rms_norm[(num_rows,)](hidden, added, weight, out, eps, update is not None, width, block, num_warps=8)
    return out


def add_rms_norm_twin(hidden: Tensor, update: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """What `add_rms_norm` computes."""
    if update is not None:
        hidden += update
    wide = hidden.to(torch.float32)
    wide = wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)
    return weight * wide.to(hidden.dtype)


@triton.jit
def _add_rms_norm(
    hidden: tl.tensor,
    update: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    ADD: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * WIDTH
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    values = tl.load(hidden + row + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        values += tl.load(update + row + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(hidden.dtype.element_ty)
        tl.store(hidden + row + columns, rounded, mask=inside)
        values = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / WIDTH + eps)
    normed = (values * scale).to(hidden.dtype.element_ty).to(tl.float32)
    scaled = normed * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + columns, scaled.to(out.dtype.element_ty), mask=inside)
