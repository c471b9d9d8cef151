"""A bias-free linear over a panel of rows, plain or with its weight in 4-bit NF4."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn import functional


class Linear(Protocol):
    """Anything that maps rows [n, in] to [n, out]."""

    def __call__(self, rows: Tensor) -> Tensor: ...


class PlainLinear:
    """rows @ weight.T with `weight` [out, in]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self.weight)
