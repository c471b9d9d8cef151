"""An adapter's pairs in the order in which the native decoder reads them. The numbers stay the same.

Packing takes longer than a pass, so it belongs to whoever reads or adds up adapters, not to the device's thread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor
from torch.nn import functional

from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.model.architecture import EMBEDDING, HEAD

BLOCK: Final = 16
"""Outputs that the native decoder computes together."""


def pack_adapter(weights: AdapterWeights) -> AdapterWeights:
    """`weights` packed; those that are packed already stay where they are."""
    return {target: _pack(target, pair) for target, pair in weights.items()}


def unpack(pair: TargetWeights) -> TargetWeights:
    """A packed pair in the order of `TargetWeights`, or itself if it is none. A head keeps its padding."""
    if pair.b.dim() == 3:
        return pair
    return TargetWeights(pair.a, pair.b.transpose(2, 3).flatten(1, 2), pair.scale, pair.bias, pair.gate)


def _pack(target: str, pair: TargetWeights) -> TargetWeights:
    """`b` as [layers, rank / 2, out, 2] or, of float32, [layers, rank, out, 1]; and `a` with its ranks, and a gate's
    projection with its columns, one behind the other in memory, their shapes unchanged.

    The embedding's `a` is looked up, so it stays as it is. The head's outputs are padded to whole blocks.
    """
    a, b, scale, bias, gate = pair.a, pair.b, pair.scale, pair.bias, pair.gate
    if b.dim() == 3:
        if target == HEAD:
            b, (scale, bias) = _padded(b), (None if part is None else _padded(part) for part in (scale, bias))
        num_layers, rank, out = b.shape
        together = 4 // b.itemsize
        b = b.reshape(num_layers, rank // together, together, out).transpose(2, 3).contiguous()
    a = a.contiguous() if target == EMBEDDING else _by_columns(a)
    gate = gate and replace(gate, projection=_by_columns(gate.projection))
    return TargetWeights(a, b, scale, bias, gate)


def _by_columns(matrices: Tensor) -> Tensor:
    """The same [layers, in, columns] with each column in one piece of memory."""
    return matrices.transpose(1, 2).contiguous().transpose(1, 2)


def _padded(outputs: Tensor) -> Tensor:
    return functional.pad(outputs, (0, -outputs.shape[-1] % BLOCK))
