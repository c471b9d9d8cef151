"""What training does to single rows, with the gradients: the truth in torch, and the same compiled for a CPU.

Between two matrix products torch would walk over memory a dozen times; on a CPU that takes longer than the products.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.decoders.native.elementwise import NativeElementwise, native_elementwise
from inference.model.rotary import apply_rope


class TorchElementwise:
    """The truth, for every type and device. Each function has a twin for its gradient; sums and exponentials are in
    float32."""

    def rms_norm(self, rows: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Rows [n, width] scaled to unit mean square, then by `weight` [width]; and what they were scaled by, [n]."""
        wide = rows.to(torch.float32)
        inverse = torch.rsqrt(wide.pow(2).mean(-1) + eps)
        return weight * (wide * inverse[:, None]).to(rows.dtype), inverse

    def rms_norm_backward(self, grad: Tensor, rows: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
        normed, slope = rows * inverse[:, None], (grad * weight).to(torch.float32)
        along = (slope * normed).mean(-1, keepdim=True)
        return ((slope - normed * along) * inverse[:, None]).to(grad.dtype)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up [n, inner] of `gate_up` [n, 2 * inner] (SwiGLU; Shazeer, 2020)."""
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up

    def swiglu_backward(self, grad: Tensor, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        return torch.cat((grad * up * sigmoid * (1 + gate * (1 - sigmoid)), grad * gate * sigmoid), dim=-1)

    def rope(self, heads: Tensor, cos: Tensor, sin: Tensor, is_back: bool = False) -> Tensor:
        """`heads` [n, heads, dim] rotated by the angles [n, 1, dim] of their rows, or back."""
        return apply_rope(heads, cos, -sin if is_back else sin)

    def softmax(self, scores: Tensor, scale: float) -> Tensor:
        """Probabilities of `scale` times `scores` [m, k * length, length], in place; row r sees r % length + 1."""
        rows, length = scores.shape[-2:]
        hidden = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1).repeat(rows // length, 1)
        probabilities = torch.softmax(scores.masked_fill(hidden, float("-inf")).to(torch.float32) * scale, dim=-1)
        return scores.copy_(probabilities)

    def softmax_backward(self, grad: Tensor, probabilities: Tensor, scale: float) -> Tensor:
        """The gradient of the scores from that of their probabilities, in place."""
        along = (grad * probabilities).sum(-1, keepdim=True)
        return grad.sub_(along).mul_(probabilities).mul_(scale)


Elementwise = TorchElementwise | NativeElementwise


def elementwise(rows: Tensor) -> Elementwise:
    """What computes on `rows`: C++ for bfloat16 on a CPU that has it, else torch."""
    if rows.dtype == torch.bfloat16 and rows.device.type == "cpu":
        return native_elementwise() or TORCH
    return TORCH


TORCH: Final = TorchElementwise()
