"""The adapters in the slots of all stages: the first stage's bank places them, and tells the others their share."""

from __future__ import annotations

from collections.abc import Sequence

from inference.adapters.slots import Bank
from inference.adapters.weights import AdapterWeights
from inference.decoders.pipeline.chain import Chain
from inference.decoders.pipeline.frame import Frame
from inference.decoders.pipeline.share import as_frame, share_of
from inference.model.stage import Stage


class PipelineBank(Bank):
    """`own` is the bank of the first of `stages`. Frames keep their order, so that a slot is filled before the pass
    that reads it, wherever that is."""

    def __init__(self, own: Bank, stages: Sequence[Stage], chain: Chain) -> None:
        self.is_packed = own.is_packed
        self._own, self._stages, self._chain = own, stages, chain

    def prepare(self, weights: AdapterWeights) -> AdapterWeights:
        return self._own.prepare(weights)

    def put(self, slot: int, weights: AdapterWeights) -> None:
        prepared = self._own.prepare(weights)
        first, *others = self._stages
        for number, stage in enumerate(others, 1):
            self._chain.send(as_frame(slot, share_of(prepared, stage), number))
        self._own.put(slot, share_of(prepared, first))

    def is_ready(self, slot: int) -> bool:
        return self._own.is_ready(slot)

    def clear(self, slot: int) -> None:
        self._chain.send(Frame("clear", self._chain.count - 1, {"slot": slot}))
        self._own.clear(slot)
