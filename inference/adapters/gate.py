"""What works out, for each row, how much each part of a blend has to say: a gate, of one of three kinds.

A scalar commutes with the second product of a low-rank update, so a row's `rows @ a` is multiplied by the coefficient
of the part that each rank belongs to, and is then expanded as ever: one sum over all parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from inference.adapters.gate_head import MAX_GATED
from inference.wire.protocol import GateKind

__all__ = ["MAX_GATED", "Gate"]


@dataclass(frozen=True)
class Gate:
    """How rows weigh the parts of one target's pair. All tensors are float32; g is the width of RAMoLE's keys.

    Part i has the ranks from the end of the one before it to `ends[i]`; one that leaves the target alone has none and a
    score of zero. A row's scores are, times `projection`: the sizes of the input (``arrow``, [layers, in, parts];
    Ostapenko et al., 2024); of the residual stream where the layer begins (``flow``, [layers, hidden, parts]; Wang et
    al., 2024); of the input in [layers, in, g], times `keys` [layers, g, rank], times ``rows @ a``, added up by part
    (``ramole``; Zhao et al., 2024). Of the `top_k` largest, 0 for all and the first of equals, the coefficients are
    the softmax of score / `temperature`, and 0 of the others; `bias` [layers, parts] is added to them.
    """

    kind: GateKind
    ends: tuple[int, ...]
    projection: Tensor
    keys: Tensor | None = None
    bias: Tensor | None = None
    top_k: int = 0
    temperature: float = 1.0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by their names here."""
        found = {name: getattr(self, name) for name in ("projection", "keys", "bias")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @cached_property
    def owners(self) -> list[int]:
        """The part of each rank up to the last end."""
        starts = (0, *self.ends)
        return [part for part, end in enumerate(self.ends) for _ in range(starts[part], end)]

    @cached_property
    def membership(self) -> Tensor:
        """float32 [last end, parts]: 1 where a rank is of a part."""
        return torch.nn.functional.one_hot(torch.tensor(self.owners, dtype=torch.int64), len(self.ends)).float()
