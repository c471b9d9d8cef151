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


class Nf4Linear:
    """The same with `weight` kept in 4-bit NF4 (Dettmers et al., 2023), expanded as it is used. CUDA only.

    Raises ImportError when bitsandbytes is not installed.
    """

    def __init__(self, weight: Tensor) -> None:
        # A GPU-only dependency, imported by whoever asks for it.
        from bitsandbytes import functional as bitsandbytes_functional
        from bitsandbytes import matmul_4bit

        self._matmul = matmul_4bit
        self._packed, self._state = bitsandbytes_functional.quantize_4bit(weight.contiguous(), quant_type="nf4")

    def __call__(self, rows: Tensor) -> Tensor:
        out: Tensor = self._matmul(rows, self._packed.t(), quant_state=self._state)
        return out
