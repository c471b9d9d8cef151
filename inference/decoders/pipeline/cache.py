"""The key-value cache of a base in stages: each has the blocks of its own layers, all by the same numbers."""

from __future__ import annotations

import torch

from inference.decoders.kv_tensors import KVCache
from inference.decoders.pipeline.chain import Chain
from inference.decoders.pipeline.frame import Frame
from inference.model.architecture import Architecture


class PipelineCache(KVCache):
    """The first stage's part. The other stages make theirs when this one is made, and copy what it copies."""

    def __init__(
        self,
        architecture: Architecture,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        chain: Chain,
    ) -> None:
        super().__init__(architecture, num_blocks, block_size, dtype, device)
        self._chain = chain
        chain.send(Frame("cache", chain.count - 1, {"blocks": num_blocks}))

    def copy(self, source: int, target: int) -> None:
        self._chain.send(Frame("copy", self._chain.count - 1, {"source": source, "target": target}))
        super().copy(source, target)
