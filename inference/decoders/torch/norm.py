"""Root-mean-square norm (Zhang and Sennrich, 2019), as Llama uses it: in float32, scaled in the rows' type."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row of `rows` [n, hidden] to unit mean square, then by `weight` [hidden]."""
    wide = rows.to(torch.float32)
    wide = wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)
    return weight * wide.to(rows.dtype)
