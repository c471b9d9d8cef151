"""The differentiable parts of a decoder whose weights are frozen: gradients reach rows and adapters, never the base.

Each keeps for its backward pass only what it cannot compute again cheaply, and computes in float32 what autograd
would round between its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.training.elementwise import elementwise

HEAD_ROWS: Final = 128
"""Logits exist for this many rows at once: a vocabulary is wide, and its products are as fast in pieces."""


@dataclass(frozen=True)
class Place:
    """Where an adapter's update goes: the rows of its examples, the columns of its target in a stacked linear. In rows
    where `acting` [rows, 1] is 0 it is none; without it, it goes to all."""

    rows: slice
    columns: slice
    scaling: float
    acting: Tensor | None = None

    def masked(self, shrunk: Tensor) -> Tensor:
        """`shrunk` [rows, rank], zero where the adapter does not act."""
        return shrunk if self.acting is None else shrunk * self.acting


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows @ matrix, computed in the type of `matrix` and given in that of `rows`."""
    return (rows.to(matrix.dtype) @ matrix).to(rows.dtype)


class AdaptedLinear(torch.autograd.Function):
    """rows @ weight.T, and on each `Place` + rows @ a.T @ b.T * scaling: the grouped product that serving uses.

    `rows` [n, in] and `weight` [out, in] may be of different types (see `product`); the factors, a pair for each place,
    are float32 and are rounded to that of the rows.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, places: Sequence[Place], *factors: Tensor) -> Tensor:
        out = product(rows, weight.T)
        kept = [rows, weight]
        for place, a, b in zip(places, factors[::2], factors[1::2], strict=True):
            a, b = a.to(rows.dtype), (b * place.scaling).to(rows.dtype)
            shrunk = place.masked(functional.linear(rows[place.rows], a))
            out[place.rows, place.columns].addmm_(shrunk, b.T)
            kept += [shrunk, a, b]
        ctx.save_for_backward(*kept)
        ctx.places = places
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, *kept = ctx.saved_tensors
        grad_rows = product(grad, weight) if ctx.needs_input_grad[0] else None
        grads: list[Tensor] = []
        for place, shrunk, a, b in zip(ctx.places, kept[::3], kept[1::3], kept[2::3], strict=True):
            grad_out = grad[place.rows, place.columns]
            grad_shrunk = place.masked(grad_out @ b)
            grads += [grad_shrunk.T @ rows[place.rows], (grad_out.T @ shrunk) * place.scaling]
            if grad_rows is not None:
                grad_rows[place.rows].addmm_(grad_shrunk, a)
        return grad_rows, None, None, *(factor.to(torch.float32) for factor in grads)


class RmsNorm(torch.autograd.Function):
    """Each row of `rows` [n, hidden] scaled to unit mean square, then by `weight` [hidden]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, inverse = elementwise(rows).rms_norm(rows, weight, eps)
        ctx.save_for_backward(rows, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return elementwise(grad).rms_norm_backward(grad, *ctx.saved_tensors), None, None


class Rope(torch.autograd.Function):
    """`heads` [n, heads, head_dim] rotated by the angles of their rows (RoPE); gradients are rotated back."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return elementwise(heads).rope(heads, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return elementwise(grad).rope(grad, cos, sin, is_back=True), None, None


class Attend(torch.autograd.Function):
    """Causal attention of `queries` [m, k * length, dim] over `keys` and `values` [m, length, dim], k heads a key.

    For short examples whole matrices of scores are far faster on a CPU than torch's flash attention and its gradient.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        ctx.scale = queries.shape[-1] ** -0.5
        probabilities = elementwise(queries).softmax(queries @ keys.transpose(1, 2), ctx.scale)
        ctx.save_for_backward(queries, keys, values, probabilities)
        return probabilities @ values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        queries, keys, values, probabilities = ctx.saved_tensors
        to_scores = elementwise(grad).softmax_backward(grad @ values.transpose(1, 2), probabilities, ctx.scale)
        return to_scores @ keys, to_scores.transpose(1, 2) @ queries, probabilities.transpose(1, 2) @ grad


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up of `gate_up` [n, 2 * inner] (Shazeer, 2020)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return elementwise(gate_up).swiglu(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return elementwise(grad).swiglu_backward(grad, *ctx.saved_tensors)


class AnswerLoss(torch.autograd.Function):
    """The cross-entropies, in nats, of `targets` int64 [n] after `rows` [n, hidden], as float32 [n].

    The gradient of a row's logits is known as soon as its loss is, so both are computed while they are at hand, and
    no more than `HEAD_ROWS` rows of logits exist at any time.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        losses, grads = [], []
        for some, wanted in zip(torch.split(rows, HEAD_ROWS), torch.split(targets, HEAD_ROWS), strict=True):
            logits = functional.linear(some.to(head.dtype), head).to(torch.float32)
            total = logits.logsumexp(-1, keepdim=True)
            losses.append((total - logits.gather(1, wanted[:, None])).squeeze(1))
            slope = logits.sub_(total).exp_()
            slope.scatter_add_(1, wanted[:, None], slope.new_full((len(wanted), 1), -1.0))
            grads.append(product(slope.to(rows.dtype), head))
        ctx.save_for_backward(torch.cat(grads))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (grads,) = ctx.saved_tensors
        return (grads * grad[:, None]).to(grads.dtype), None, None


adapted_linear: Callable[..., Tensor] = AdaptedLinear.apply
rms_norm: Callable[..., Tensor] = RmsNorm.apply
rope: Callable[..., Tensor] = Rope.apply
attend: Callable[..., Tensor] = Attend.apply
swiglu: Callable[..., Tensor] = SwiGlu.apply
answer_loss: Callable[..., Tensor] = AnswerLoss.apply
