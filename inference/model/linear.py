"""A bias-free linear over a panel of rows, with its weight plain or quantised."""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

GROUP: Final = 32
"""Inputs that share a scale in 4 bits."""
TINY: Final = 1e-7
"""The least scale: above zero, by which nothing can be divided, and a number in float16."""


class Linear(Protocol):
    """Anything that maps rows [n, in] to [n, out]."""

    def __call__(self, rows: Tensor) -> Tensor: ...


class PlainLinear:
    """rows @ weight.T with `weight` [out, in]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self.weight)


class Int8Linear:
    """The same with each output's weights as int8 and each row as integers of 15 bits, each under a scale.

    Products are sums of integers, exact in any order, so a row's bits depend on nothing but the row. Eight bits
    for the rows too cost up to 4 points of a task's score.
    """

    def __init__(self, weight: Tensor) -> None:
        wide = weight.to(torch.float32)
        self.scales = wide.abs().amax(dim=1).clamp(min=TINY) / 127
        self.weight = (wide / self.scales[:, None]).round().to(torch.int8)

    def __call__(self, rows: Tensor) -> Tensor:
        wide = rows.to(torch.float32)
        most = wide.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30)
        levels = (wide * (16383 / most)).round()
        sums = functional.linear(levels.to(torch.float64), self.weight.to(torch.float64)).to(torch.float32)
        return (sums * (most / 16383) * self.scales).to(rows.dtype)


class Int4Linear:
    """The same in 4 bits: groups of `GROUP` inputs of an output share a scale and a minimum, as in GGUF's Q4_1.

    `weight` uint8 [out, in / 2] holds two inputs a byte, the even one low; `scales` and `mins` are float16
    [out, in / GROUP]. Weights that were in such groups before come back as they were.
    """

    def __init__(self, weight: Tensor) -> None:
        out, into = weight.shape
        if into % GROUP:
            raise ValueError(f"4 bits come in groups of {GROUP} inputs, and this linear has {into}; choose 8 bits")
        groups = weight.to(torch.float32).reshape(out, into // GROUP, GROUP)
        self.mins = groups.amin(dim=2).to(torch.float16)
        self.scales = ((groups.amax(dim=2) - self.mins) / 15).clamp(min=TINY).to(torch.float16)
        levels = ((groups - self.mins[..., None].float()) / self.scales[..., None].float()).round().clamp(0, 15)
        levels = levels.to(torch.uint8).reshape(out, into)
        self.weight = levels[:, ::2] | levels[:, 1::2] << 4

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self.dequantized(rows.dtype))

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that products see."""
        levels = torch.stack((self.weight & 15, self.weight >> 4), dim=2).to(torch.float32)
        scales, mins = self.scales[..., None].float(), self.mins[..., None].float()
        groups = levels.reshape(*self.scales.shape, GROUP) * scales + mins
        return groups.reshape(len(self.weight), -1).to(dtype)


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
