"""The gate of the MLP: silu(gate) * up, element by element (Shazeer, 2020)."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

_BLOCK: Final = 1024


def swiglu(gate_up: Tensor) -> Tensor:
    """silu of the first half times the second: [rows, 2 * width] to [rows, width]."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_rows, width), dtype=gate_up.dtype, device=gate_up.device)
    _swiglu[(num_rows, triton.cdiv(width, _BLOCK))](gate_up, out, width, _BLOCK)
    return out


def swiglu_twin(gate_up: Tensor) -> Tensor:
    """What `swiglu` computes: in float32, rounded once."""
    gate, up = gate_up.to(torch.float32).chunk(2, dim=-1)
    return (functional.silu(gate) * up).to(gate_up.dtype)


@triton.jit
def _swiglu(gate_up: tl.tensor, out: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    inner = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + columns, inner.to(out.dtype.element_ty), mask=inside)
