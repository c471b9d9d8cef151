"""Decode passes captured as CUDA graphs: hundreds of launches become one.

A graph belongs to a shape of step, not to its content: rows of one adapter, of many and of the base among them replay
the same graph. Graphs share their memory, so what one returns must be read before another runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.batch import Batch
from inference.gpu.step import Staging, Step, StepShape
from inference.layers.attention import KVCache


@dataclass(frozen=True)
class _Captured:
    staging: Staging
    graph: torch.cuda.CUDAGraph
    logits: Tensor


class Graphs:
    """The captured passes of `compute`, which takes a step to logits [samples, vocab], over `cache`."""

    def __init__(self, compute: Callable[[Step, KVCache], Tensor], cache: KVCache) -> None:
        self.cache = cache
        self._compute, self._device = compute, cache.keys[0].device
        self._captured: dict[StepShape, _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, shape: StepShape, batch: Batch) -> Tensor:
        """Logits of the sample rows of `batch`, which has decode rows only."""
        captured = self._captured.get(shape) or self.capture(shape)
        captured.staging.fill(batch)
        captured.graph.replay()
        return captured.logits[: len(batch.sample_rows)]

    def capture(self, shape: StepShape) -> _Captured:
        """Capture the pass of `shape`, over nothing but padding, so that no key or value is touched."""
        staging = Staging(shape, self._device)
        current, side = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            # Kernels are compiled and libraries set up before the capture, which allows neither.
            self._compute(staging.step, self.cache)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are watched: another may be pinning memory for an adapter.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._compute(staging.step, self.cache)
        self._captured[shape] = _Captured(staging, graph, logits)
        return self._captured[shape]
