"""The stages of a base one after the other in one process: all of a pipeline but its processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from inference.adapters.slots import Bank
from inference.adapters.weights import AdapterWeights
from inference.decoders.batch import Batch
from inference.decoders.contract import StageDecoder, Stream
from inference.decoders.kv_tensors import KVCache
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.pipeline.decoder import as_pass
from inference.decoders.pipeline.frame import decode, encode
from inference.decoders.pipeline.micro_batch import NUM_TENSORS, from_tensors, micro_batches
from inference.decoders.pipeline.share import as_frame, from_frame, share_of
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import Architecture, read_architecture
from inference.model.stage import Stage, whole
from inference.model.weights import stream_weights

BLOCK_SIZE = 32


def stages_of(ends: Sequence[int]) -> list[Stage]:
    """Stages that end before the layers `ends`."""
    return [Stage(first, end, ends[-1]) for first, end in zip((0, *ends), ends, strict=False)]


def load_stage(
    directory: Path, kind: str, dtype: torch.dtype, stage: Stage | None = None, quantization: str = "none"
) -> StageDecoder:
    """The decoder ``torch`` or ``native`` of a stage, or of all."""
    architecture = read_architecture(directory / "config.json").within(128)
    stage = stage or whole(architecture)
    weights = stream_weights(directory, architecture, dtype, "cpu", quantization, stage)
    own = stage.of(architecture)
    if kind == "torch":
        return TorchDecoder(own, weights.held(), LoraBank())
    return NativeDecoder(own, weights, NativeBank(16), library_path(), BLOCK_SIZE, 1)


class _Banks(Bank):
    def __init__(self, decoders: Sequence[StageDecoder], stages: Sequence[Stage]) -> None:
        self.is_packed = decoders[0].bank.is_packed
        self._decoders, self._stages = decoders, stages

    def prepare(self, weights: AdapterWeights) -> AdapterWeights:
        return self._decoders[0].bank.prepare(weights)

    def put(self, slot: int, weights: AdapterWeights) -> None:
        for number, (decoder, stage) in enumerate(zip(self._decoders, self._stages, strict=True)):
            sent = decode(encode(as_frame(slot, share_of(self.prepare(weights), stage), number)))
            decoder.bank.put(slot, from_frame(sent))

    def clear(self, slot: int) -> None:
        for decoder in self._decoders:
            decoder.bank.clear(slot)


class InTurn:
    """`Passes` runs it as any decoder. Everything goes from stage to stage as the bytes of a frame."""

    def __init__(
        self, directory: Path, kind: str, dtype: torch.dtype, ends: Sequence[int], num_micro: int, *options: str
    ) -> None:
        self.architecture: Architecture = read_architecture(directory / "config.json")
        self._stages, self._num_micro = stages_of(ends), num_micro
        self.decoders = [load_stage(directory, kind, dtype, stage, *options) for stage in self._stages]
        self.bank = _Banks(self.decoders, self._stages)
        self._caches: list[KVCache] = []
        self.hidden = self.coefficients = torch.empty((0, 0))

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        if not self._caches or self._caches[0].keys[0] is not cache.keys[0]:
            self._caches = [_part(cache, stage) for stage in self._stages]
        parts = micro_batches(batch, self._num_micro)
        rows = [self._through(part.batch) for part in parts]
        assert torch.equal(torch.cat([part.samples for part in parts]), torch.arange(len(batch.sample_rows)))
        logits, self.hidden, self.coefficients = (torch.cat(own) for own in zip(*rows, strict=True))
        return logits

    def _through(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        stream: Stream | None = None
        *first, last = zip(self.decoders, self._caches, strict=True)
        for decoder, cache in first:
            sent = decode(encode(as_pass(batch, decoder.pass_on(batch, cache, stream))))
            batch, (rows, *sums) = from_tensors(sent.tensors[:NUM_TENSORS]), sent.tensors[NUM_TENSORS:]
            stream = Stream(rows, sums[0] if sums else None)
        logits = last[0].forward(batch, last[1], stream)
        return logits.clone(), last[0].hidden, last[0].coefficients


def _part(cache: KVCache, stage: Stage) -> KVCache:
    part = KVCache.__new__(KVCache)
    part.num_blocks, part.block_size = cache.num_blocks, cache.block_size
    part.keys, part.values = cache.keys[stage.layers], cache.values[stage.layers]
    return part
