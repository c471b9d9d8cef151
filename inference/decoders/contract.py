"""What a way to compute a pass is to the engine, whichever device it is made for."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from inference.adapters.slots import Bank
from inference.decoders.batch import Batch
from inference.decoders.coefficients import NONE
from inference.decoders.interrupt import Interrupt
from inference.decoders.kv_tensors import KVCache


class Decoder(ABC):
    """The base model, with the adapters of its own `bank`. One that looks at its `interrupt` can be interrupted."""

    rows_are_uniform: bool = False
    """Whether a token's keys and values have the same bits in a tile as in a decode row."""
    has_own_threads: bool = False
    """Whether it computes on threads of its own, beside which torch's would only spin."""
    unit: str = ""
    """The part of the processor on which its products are computed, where it is not torch that chooses."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.hidden = torch.empty((0, 0))
        """Float32 [m, width]: the m hidden rows of the last pass as the head sees them, behind the last norm."""
        self.coefficients = NONE
        """Float32 [n, MAX_GATED]: what a blend's gate made of each of the n sample rows of the last pass, in the mean
        over layers and targets, and NaN in rows of no blend; `NONE` of a pass without one."""
        self.interrupt = Interrupt()

    @abstractmethod
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Write the keys and values of `batch` into `cache`; logits float32 [n, vocab] of its n sample rows.

        They, `hidden` and `coefficients` may be overwritten by the next call. May raise `Interrupted` once the
        interrupt is due.
        """

    def argmax(self, logits: Tensor) -> tuple[list[int], list[bool]]:
        """Of float32 [rows, vocab] the argmax of each row, the first of equals, and whether all of the row is finite.

        A decoder may have a faster way to the same.
        """
        return argmax_rows(logits)


def argmax_rows(logits: Tensor) -> tuple[list[int], list[bool]]:
    """`Decoder.argmax`, as numpy and torch have it."""
    if logits.device.type != "cpu":
        is_finite = torch.isfinite(logits.amax(-1)) & torch.isfinite(logits.amin(-1))
        # One answer, because the host waits for each.
        token_ids, are_finite = torch.stack((logits.argmax(-1), is_finite.to(torch.int64))).tolist()
        return token_ids, [bool(flag) for flag in are_finite]
    values = logits.numpy()  # which is several times faster at this than torch
    token_ids = values.argmax(-1)
    largest = values[np.arange(len(values)), token_ids]
    return token_ids.tolist(), (np.isfinite(largest) & np.isfinite(values.min(-1))).tolist()
