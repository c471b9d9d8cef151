"""Norms of rows: root mean square (Zhang and Sennrich, 2019), scaled in the rows' type or in float32, and LayerNorm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from inference.model.spec import Norm

Shift = Callable[[Tensor], None]
"""What adds adapters' biases to normed rows in place."""


def norm(kind: Norm, rows: Tensor, weight: Tensor, eps: float, shift: Shift) -> Tensor:
    """`rows` [..., width] normed as `kind` says, by `weight` [width] or, of a LayerNorm, weight and bias [2, width] and
    `shift`, in float32."""
    if kind is Norm.LAYER:
        normed = functional.layer_norm(rows.to(torch.float32), rows.shape[-1:], eps=eps)
        normed = normed * weight[0] + weight[1]
        shift(normed)
        return normed.to(rows.dtype)
    return rms_norm(rows, weight, eps)


def rms_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row of `rows` [..., width] to unit mean square, then by `weight` [width] in the type of that."""
    wide = rows.to(torch.float32)
    wide = wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)
    return (weight * wide.to(weight.dtype)).to(rows.dtype)
