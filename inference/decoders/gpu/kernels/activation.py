"""What the MLP bends its inner rows with, element by element: a SiLU or GELU, times the other half where it is gated
(Shazeer, 2020)."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.biased import load_biased
from inference.decoders.torch.decoder import ACTIVATIONS
from inference.model.spec import Activation

_BLOCK: Final = 1024
_SILU: tl.constexpr = tl.constexpr(int(Activation.SILU))
_GELU: tl.constexpr = tl.constexpr(int(Activation.GELU))


def activate(inner: Tensor, bias: Tensor | None, kind: Activation, is_gated: bool) -> Tensor:
    """`inner` [rows, 2 * width] plus `bias`, its first half bent and times the second; or [rows, width] bent."""
    num_rows, width = inner.shape[0], inner.shape[1] // 2 if is_gated else inner.shape[1]
    out = torch.empty((num_rows, width), dtype=inner.dtype, device=inner.device)
    grid = (num_rows, triton.cdiv(width, _BLOCK))
    _activate[grid](inner, bias, out, KIND=int(kind), IS_GATED=is_gated, WIDTH=width, BLOCK=_BLOCK)
    return out


def activate_twin(inner: Tensor, bias: Tensor | None, kind: Activation, is_gated: bool) -> Tensor:
    """What `activate` computes: in float32, rounded once."""
    wide = inner.float() if bias is None else inner.float() + bias
    bent, *up = wide.chunk(2 if is_gated else 1, dim=-1)
    bent = ACTIVATIONS[kind](bent)
    return (bent * up[0] if up else bent).to(inner.dtype)


@triton.jit
def tanh(x: tl.tensor) -> tl.tensor:
    """Good to the last bits of 1, which is what a cap needs."""
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))


@triton.jit
def _bent(x: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    if KIND == _SILU:
        return x / (1.0 + tl.exp(-x))
    if KIND == _GELU:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    # 1 + tanh(y) is 2 / (1 + exp(-2 y)).
    return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))


@triton.jit
def _activate(
    inner: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    KIND: tl.constexpr,
    IS_GATED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * (2 * WIDTH if IS_GATED else WIDTH)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    x = _bent(load_biased(inner + row, bias, columns, inside), KIND)
    if IS_GATED:
        x *= load_biased(inner + row, bias, WIDTH + columns, inside)
    tl.store(out + tl.program_id(0).to(tl.int64) * WIDTH + columns, x.to(out.dtype.element_ty), mask=inside)
