"""One pass through the decoder as plain tensors: which rows there are and to which sequences they belong.

A batch has decode rows first or last, in any order; what matters is that every row lies in exactly one
segment. It knows nothing of requests, blocks accounting or adapters' names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Rows [start, start + length) of a batch, which belong to one sequence at consecutive positions.

    `block_table` names the cache blocks of the sequence in order, at least enough to hold `context` tokens.
    `context` counts the tokens in the cache once this pass has written its own, so the last row of the
    segment is at position ``context - 1``.
    """

    start: int
    length: int
    block_table: tuple[int, ...]
    context: int


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass.

    `token_ids`, `positions`, `cache_slots` (block * block size + offset) and `adapter_slots` (-1 for the base)
    are int64 of shape [rows]. `decodes` are segments of one row each, `tiles` are segments of up to `TILE` rows that
    start at a position divisible by `TILE`, unless rows are uniform. A tile's rows are of one slot, but for rows of the
    base before it. `sample_rows` [n] int64 names the rows whose logits are wanted, `hidden_rows` [m] int64 those
    whose hidden states are.
    """

    token_ids: Tensor
    positions: Tensor
    cache_slots: Tensor
    adapter_slots: Tensor
    decodes: tuple[Segment, ...]
    tiles: tuple[Segment, ...]
    sample_rows: Tensor
    hidden_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on `device`."""
        if self.token_ids.device == device:
            return self
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})
