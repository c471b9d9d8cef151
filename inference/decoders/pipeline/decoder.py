"""A base in stages as one decoder: the first stage is computed here, the others in processes beside or far away.

Micro-batches follow one another through the stages as in GPipe (Huang et al., 2019): with m of them and D stages, of a
pass the share (D - 1) / (m + D - 1) is waiting, as far as all take the same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from inference.decoders.batch import Batch
from inference.decoders.coefficients import NONE
from inference.decoders.contract import Decoder, StageDecoder, Stream
from inference.decoders.kv_tensors import KVCache
from inference.decoders.pipeline.bank import PipelineBank
from inference.decoders.pipeline.cache import PipelineCache
from inference.decoders.pipeline.chain import Chain
from inference.decoders.pipeline.frame import Frame
from inference.decoders.pipeline.micro_batch import MicroBatch, as_tensors, micro_batches
from inference.decoders.pipeline.processes import Processes
from inference.model.architecture import Architecture
from inference.model.heap import resident_bytes
from inference.model.stage import Stage
from inference.wire.protocol import StageLoad

LEAST_ROWS: Final = 16
"""Rows of a micro-batch, where their number is not set: to read the weights once more for fewer costs more than it
saves. More than two for each stage save little beside that."""
FRESH_SECONDS: Final = 1.0
"""How long what the stages told of themselves is told again."""


class PipelineDecoder(Decoder):
    """`own` has the first of `stages`. A pass is cut into `num_micro` micro-batches, 0: as many as pay."""

    def __init__(
        self, own: StageDecoder, stages: Sequence[Stage], chain: Chain, processes: Processes, num_micro: int = 0
    ) -> None:
        super().__init__(PipelineBank(own.bank, stages, chain))
        own.interrupt = self.interrupt
        self.rows_are_uniform, self.has_own_threads, self.unit = own.rows_are_uniform, own.has_own_threads, own.unit
        self.num_micro = num_micro
        self._own, self._stages, self._chain, self._processes = own, stages, chain, processes
        self._busy = 0.0
        self._told: tuple[StageLoad, ...] = ()
        self._asked = float("-inf")

    def make_cache(
        self, architecture: Architecture, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> KVCache:
        return PipelineCache(self._stages[0].of(architecture), num_blocks, block_size, dtype, device, self._chain)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """As the contract has it. Raises `StageLost`.

        Interrupted is what is computed here; what the stages behind have begun by then is waited for.
        """
        parts = micro_batches(batch, self._count(batch))
        begun, ended = list[MicroBatch](), list[Frame]()
        try:
            for part in parts:
                self._begin(part, cache)
                begun.append(part)
        finally:
            ended = [self._chain.receive() for _ in begun]
            self._chain.settle()
        return self._collect(batch, parts, ended)

    def argmax(self, logits: Tensor) -> tuple[list[int], list[bool]]:
        return self._own.argmax(logits)

    @property
    def stages(self) -> tuple[StageLoad, ...]:
        if time.monotonic() - self._asked > FRESH_SECONDS:
            own = [self._stages[0].first, self._stages[0].end, resident_bytes(), self._busy, os.getpid()]
            self._chain.send(Frame("load", told={"loads": [own]}))
            self._told = tuple(StageLoad(*told) for told in self._chain.receive().told["loads"])
            self._chain.settle()
            self._asked = time.monotonic()
        return self._told

    def close(self) -> None:
        self._processes.end()

    def _count(self, batch: Batch) -> int:
        return self.num_micro or min(2 * len(self._stages), max(1, len(batch.token_ids) // LEAST_ROWS))

    def _begin(self, part: MicroBatch, cache: KVCache) -> None:
        before = time.perf_counter()
        stream = self._own.pass_on(part.batch, cache)
        self._busy += time.perf_counter() - before
        self._chain.send(as_pass(part.batch, stream))

    def _collect(self, batch: Batch, parts: Sequence[MicroBatch], ended: Sequence[Frame]) -> Tensor:
        """The logits of all, and beside them hidden states and coefficients."""
        logits, hidden, coefficients = zip(*(frame.tensors for frame in ended), strict=True)
        samples, wanted = [part.samples for part in parts], [part.hidden for part in parts]
        self.hidden = _placed(hidden, wanted, len(batch.hidden_rows))
        has_gates = ended[0].told["has_gates"]
        self.coefficients = _placed(coefficients, samples, len(batch.sample_rows)) if has_gates else NONE
        return _placed(logits, samples, len(batch.sample_rows))


def as_pass(batch: Batch, stream: Stream) -> Frame:
    """What a stage needs of a micro-batch: the batch, and the stream that the stage before it left."""
    sums = () if stream.sums is None else (stream.sums,)
    return Frame("pass", tensors=(*as_tensors(batch), stream.rows, *sums))


def _placed(parts: Sequence[Tensor], places: Sequence[Tensor], count: int) -> Tensor:
    """The rows of all `parts` [n, width] at their `places` among `count`."""
    if len(parts) == 1:
        return parts[0]
    whole = torch.empty((count, parts[0].shape[1]), dtype=parts[0].dtype)
    for part, at in zip(parts, places, strict=True):
        whole[at] = part
    return whole
