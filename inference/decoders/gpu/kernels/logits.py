"""What is done to logits behind the head, in one pass over them: biased, widened, multiplied and capped."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.activation import tanh
from inference.decoders.gpu.kernels.biased import load_biased

_BLOCK: Final = 1024


def finish_logits(rows: Tensor, bias: Tensor | None, multiplier: float, cap: float) -> Tensor:
    """`rows` [n, vocab] plus `bias`, times `multiplier` and bent to stay below `cap`, 0 for none, in float32."""
    if bias is None and multiplier == 1.0 and not cap:
        return rows.to(torch.float32)
    num_rows, vocab = rows.shape
    out = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    grid = (num_rows, triton.cdiv(vocab, _BLOCK))
    _finish[grid](rows, bias, out, float(multiplier), float(cap), vocab, IS_CAPPED=cap != 0, BLOCK=_BLOCK)
    return out


def finish_logits_twin(rows: Tensor, bias: Tensor | None, multiplier: float, cap: float) -> Tensor:
    """What `finish_logits` computes."""
    logits = (rows.float() if bias is None else rows.float() + bias) * multiplier
    return cap * torch.tanh(logits / cap) if cap else logits


@triton.jit
def _finish(
    rows: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    multiplier: tl.tensor,
    cap: tl.tensor,
    vocab: tl.tensor,
    IS_CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    place = tl.program_id(0).to(tl.int64) * vocab
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < vocab
    logits = load_biased(rows + place, bias, columns, inside) * multiplier
    if IS_CAPPED:
        logits = cap * tanh(logits / cap)
    tl.store(out + place + columns, logits, mask=inside)
