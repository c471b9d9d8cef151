"""The pairs of an adapter as tensors, by the target that they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

RANK_STEP: Final = 8
"""Ranks are padded with zeros to a multiple of this, so that adapters of near ranks share a product."""


@dataclass(frozen=True)
class TargetWeights:
    """An adapter's pairs for one target in every layer: `a` [layers, in, rank] and `b` [layers, rank, out].

    Scaling is folded into `b`; a layer that the adapter leaves alone holds zeros. ``embed_tokens`` (in: the
    vocabulary) and ``lm_head`` (out: the vocabulary) count as one layer. With `scale`, float32 [layers, out]
    whatever the type of the rest, the result is ``scale * (base's output + rows @ a @ b)``. The native decoder has
    `b` in another order (`inference.adapters.packed_lora`).
    """

    a: Tensor
    b: Tensor
    scale: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[2]

    def to(self, device: torch.device | str) -> TargetWeights:
        """The same on `device`."""
        return TargetWeights(
            self.a.to(device), self.b.to(device), None if self.scale is None else self.scale.to(device)
        )

    @property
    def num_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes + (0 if self.scale is None else self.scale.nbytes)


AdapterWeights = dict[str, TargetWeights]
"""Pairs by the target that they change, e.g. ``q_proj``."""
