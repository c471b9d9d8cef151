"""What gates made of the sampled rows of a pass, told beside the logits: means over the layers and targets of a blend.

A coefficient is of one row, layer and target. That of a part which leaves a target alone is told as the gate gave it.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from inference.adapters.gate_head import MAX_GATED

NONE: Final = torch.empty((0, MAX_GATED))
"""Of a pass without a blend."""


def coefficient_sums(rows: int) -> Tensor:
    """Float32 [rows, MAX_GATED + 1], to which coefficients are added, and behind them how many times that was done."""
    return torch.zeros((rows, MAX_GATED + 1))


def mean_coefficients(sums: Tensor) -> Tensor:
    """Float32 [rows, MAX_GATED]; no numbers (NaN) in rows that no gate has looked at."""
    return sums[:, :MAX_GATED] / sums[:, MAX_GATED:]
