"""The pairs and biases of an adapter as tensors, by the target that they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torch import Tensor

from inference.adapters.gate import Gate

RANK_STEP: Final = 8
"""Ranks are padded with zeros to a multiple of this, so that adapters of near ranks share a product."""


@dataclass(frozen=True)
class TargetWeights:
    """An adapter's pairs for one target in every layer: `a` [layers, in, rank] and `b` [layers, rank, out].

    Scaling is folded into `b`; a layer that the adapter leaves alone holds zeros. ``embed_tokens`` (in: the
    vocabulary) and ``lm_head`` (out: the vocabulary) count as one layer. With `scale` and `bias`, float32 [layers, out]
    whatever the type of the rest, the result is ``scale * (base's output + rows @ a @ b) + bias``. A norm of `NORMS`
    has a bias alone, and so may a linear: their rank is 0. A blend's `gate` multiplies ``rows @ a``, each rank by its
    part's coefficient. The native decoder has `b` in another order (`inference.adapters.packed_lora`).
    """

    a: Tensor
    b: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None
    gate: Gate | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[2]

    @property
    def parts(self) -> dict[str, Tensor]:
        """The tensors that there are, by their names here."""
        return {name: tensor for name, tensor in vars(self).items() if isinstance(tensor, Tensor)}

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.parts.values())


AdapterWeights = dict[str, TargetWeights]
"""Pairs by the target that they change, e.g. ``q_proj``."""


def padded(rank: int) -> int:
    """`rank` as it is stored."""
    return -(-rank // RANK_STEP) * RANK_STEP


def num_bytes(weights: AdapterWeights) -> int:
    """Bytes of all tensors, of one that several targets share once."""
    gates = (pair.gate.tensors for pair in weights.values() if pair.gate)
    tensors = (tensor for parts in (*(pair.parts for pair in weights.values()), *gates) for tensor in parts.values())
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())
