"""What a way to compute a pass is to the engine, whichever device it is made for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.adapters.slots import Bank
from inference.decoders.batch import Batch
from inference.decoders.coefficients import NONE
from inference.decoders.interrupt import Interrupt
from inference.decoders.kv_tensors import KVCache
from inference.model.architecture import Architecture
from inference.wire.protocol import StageLoad


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

    @property
    def stages(self) -> tuple[StageLoad, ...]:
        """The processes that share the base, in the order of its layers; none where it is in one. Raises if one is
        gone."""
        return ()

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """End what computes beside this process."""

    def make_cache(
        self, architecture: Architecture, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> KVCache:
        """The cache for all passes of `forward`."""
        return KVCache(architecture, num_blocks, block_size, dtype, device)

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


@dataclass(frozen=True)
class Stream:
    """What one layer leaves to the next: the residual stream `rows` [rows, hidden], in the type of the weights, and
    the `sums` of `inference.decoders.coefficients` so far, where a blend is in a slot."""

    rows: Tensor
    sums: Tensor | None


class StageDecoder(Decoder):
    """A decoder that may have a stage of the base alone (`inference.model.stage`): its layers count from 0."""

    architecture: Architecture

    @abstractmethod
    def forward(self, batch: Batch, cache: KVCache, stream: Stream | None = None) -> Tensor:
        """As of any decoder; the last stage goes on from the `stream` that the one before has left."""

    @abstractmethod
    def pass_on(self, batch: Batch, cache: KVCache, stream: Stream | None = None) -> Stream:
        """The same of another stage, up to what its last layer leaves. It may be overwritten by the next call."""


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
