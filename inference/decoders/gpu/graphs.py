"""Passes captured as CUDA graphs: hundreds of launches become one.

A graph belongs to a shape of step, not to its content: rows of one adapter, of many with the same targets, and of the
base among them replay the same graph. Graphs share their memory, so what one returns must be read before another runs.

Decode passes have few shapes and are captured before they run. Passes with tiles have more: one is computed kernel by
kernel the first time, which also compiles the kernels, and captured when its shape comes back. Of these the
`TILE_GRAPHS` that were last used are kept.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.decoders.batch import Batch
from inference.decoders.gpu.step import Staging, Step, StepShape
from inference.decoders.kv_tensors import KVCache

log = logging.getLogger(__name__)

TILE_GRAPHS: Final = 32
"""Each keeps its logits and what the device knows of its launches, which should be some 10 MB."""
Outputs = tuple[Tensor, ...]
"""Of each sample row: its logits, float32 [samples, vocab], and what else is told of it, [samples, ...]."""
Compute = Callable[[Step, KVCache], Outputs]


def run_eagerly(compute: Compute, shape: StepShape, batch: Batch, cache: KVCache) -> Outputs:
    """What `compute` makes of the n sample rows of `batch`, padded to `shape`, kernel by kernel: [n, ...] each."""
    staging = Staging(shape, cache.keys[0].device)
    staging.fill(batch)
    return _of_samples(compute(staging.step, cache), batch)


def _of_samples(outputs: Outputs, batch: Batch) -> Outputs:
    return tuple(output[: len(batch.sample_rows)] for output in outputs)


@dataclass(frozen=True)
class _Captured:
    staging: Staging
    graph: torch.cuda.CUDAGraph
    outputs: Outputs


class Graphs:
    """The captured passes of `compute` over `cache`."""

    def __init__(self, compute: Compute, cache: KVCache) -> None:
        self.cache = cache
        self._compute, self._device = compute, cache.keys[0].device
        self._decodes: dict[StepShape, _Captured] = {}
        self._tiles: OrderedDict[StepShape, _Captured] = OrderedDict()
        self._met: set[StepShape] = set()
        self._max_tiles = TILE_GRAPHS
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, shape: StepShape, batch: Batch) -> Outputs:
        """What is computed of the n sample rows of `batch`, padded to `shape`: [n, ...] each."""
        captured = self._of_tiles(shape) if shape.num_tiles else self._decodes.get(shape) or self.prepare(shape)
        if captured is None:
            outputs = run_eagerly(self._compute, shape, batch, self.cache)
            self._met.add(shape)
            return outputs
        captured.staging.fill(batch)
        captured.graph.replay()
        return _of_samples(captured.outputs, batch)

    def prepare(self, shape: StepShape) -> _Captured:
        """Capture the decode passes of `shape`."""
        # Kernels are compiled and libraries set up before the capture, which allows neither.
        self._compute(Staging(shape, self._device).step, self.cache)
        self._decodes[shape] = self._capture(shape)
        return self._decodes[shape]

    def _of_tiles(self, shape: StepShape) -> _Captured | None:
        """The graph of a shape that has tiles, None where the pass has to do without."""
        if shape in self._tiles:
            self._tiles.move_to_end(shape)
        elif shape in self._met and self._max_tiles:
            self._capture_tiles(shape)
        return self._tiles.get(shape)

    def _capture_tiles(self, shape: StepShape) -> None:
        while len(self._tiles) >= self._max_tiles:
            self._met.discard(self._tiles.popitem(last=False)[0])
        try:
            self._tiles[shape] = self._capture(shape)
        except torch.OutOfMemoryError:
            # Without a graph the pass may still have room.
            self._max_tiles = len(self._tiles)
            log.warning("graphs of passes with tiles: no memory for more than %d", self._max_tiles)

    def _capture(self, shape: StepShape) -> _Captured:
        """Capture a pass over nothing but padding."""
        staging, graph = Staging(shape, self._device), torch.cuda.CUDAGraph()
        # Only this thread's calls are watched: another may be pinning memory for an adapter.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = self._compute(staging.step, self.cache)
        return _Captured(staging, graph, outputs)
