"""Which passes are captured, and when: graphs of CUDA are stood for by what says that it was replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.decoders.batch import Batch, Segment
from inference.decoders.gpu import graphs
from inference.decoders.gpu.graphs import Graphs
from inference.decoders.gpu.step import Step, StepShape, decode_shape, shape_of
from inference.decoders.kv_tensors import KVCache
from inference.model.architecture import Architecture
from inference.tile import TILE

ARCHITECTURE = Architecture(8, 4, 4, 1, 1, 1, 4, 1e-5, 64)


class Device:
    """What happened, in order; with `is_full` a capture finds no memory."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_full = self.is_capturing = False

    def compute(self, step: Step, cache: KVCache) -> tuple[Tensor]:
        if self.is_full and self.is_capturing:
            raise torch.OutOfMemoryError
        self.events.append("captured" if self.is_capturing else "computed")
        return (torch.zeros(step.shape.num_samples, ARCHITECTURE.vocab_size),)

    def make_graph(self) -> Any:
        device = self

        class Graph:
            def replay(self) -> None:
                device.events.append("replayed")

        return Graph()

    @contextmanager
    def capturing(self, *given: Any, **named: Any) -> Iterator[None]:
        self.is_capturing = True
        try:
            yield
        finally:
            self.is_capturing = False

    def take(self) -> list[str]:
        """The events since the last time."""
        events, self.events = self.events, []
        return events


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", device.make_graph)
    monkeypatch.setattr(torch.cuda, "graph", device.capturing)
    return device


@pytest.fixture
def passes(device: Device) -> Graphs:
    return Graphs(device.compute, KVCache(ARCHITECTURE, 4, 16, torch.float32))


def prompts(tiles: int) -> tuple[StepShape, Batch]:
    """A pass of so many tiles, of each of which the last row is sampled."""
    segments = tuple(Segment(n * TILE, TILE, (0, 1), TILE) for n in range(tiles))
    rows = torch.zeros(tiles * TILE, dtype=torch.int64)
    batch = Batch(rows, rows, rows, rows - 1, (), segments, torch.arange(1, tiles + 1) * TILE - 1)
    return shape_of(batch, 16, False), batch


def test_a_pass_with_tiles_is_captured_when_its_shape_comes_back(device: Device, passes: Graphs) -> None:
    assert len(passes.run(*prompts(3))[0]) == 3
    assert device.take() == ["computed"]
    # Three tiles and four have one shape.
    assert len(passes.run(*prompts(4))[0]) == 4
    assert device.take() == ["captured", "replayed"]
    passes.run(*prompts(3))
    assert device.take() == ["replayed"]


def test_a_decode_pass_is_captured_before_it_runs(device: Device, passes: Graphs) -> None:
    shape, rows = decode_shape(1, 1, 16, False), torch.zeros(1, dtype=torch.int64)
    passes.run(shape, Batch(rows, rows, rows, rows - 1, (Segment(0, 1, (0,), 1),), (), rows))
    assert device.take() == ["computed", "captured", "replayed"]


def test_of_graphs_with_tiles_those_last_used_are_kept(
    monkeypatch: pytest.MonkeyPatch, device: Device, passes: Graphs
) -> None:
    monkeypatch.setattr(passes, "_max_tiles", 2)
    for tiles in (1, 1, 2, 2, 1, 4, 4):
        passes.run(*prompts(tiles))
    device.take()
    passes.run(*prompts(1))
    assert device.take() == ["replayed"]
    passes.run(*prompts(2))
    assert device.take() == ["computed"], "a shape that was dropped is as good as new"


def test_where_memory_has_no_room_for_a_graph_passes_do_without(device: Device, passes: Graphs) -> None:
    device.is_full = True
    for _ in range(3):
        assert len(passes.run(*prompts(2))[0]) == 2
    assert device.take() == ["computed"] * 3


def test_a_pass_that_failed_is_not_captured_before_it_succeeds(
    monkeypatch: pytest.MonkeyPatch, device: Device, passes: Graphs
) -> None:
    with monkeypatch.context() as full:
        full.setattr(graphs, "run_eagerly", raise_out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            passes.run(*prompts(2))
    passes.run(*prompts(2))
    assert device.take() == ["computed"]


def raise_out_of_memory(*given: Any) -> Tensor:
    raise torch.OutOfMemoryError
