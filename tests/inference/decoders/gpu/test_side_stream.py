"""Two streams: what runs on which, and who waits for whom. Streams are stood for by lists of what they were given."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from inference.decoders.gpu.side_stream import overlap


class Device:
    """A device of which one stream is current; `order` is what was launched, and on which stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.main, self.side = Stream("main", self), Stream("side", self)
        self.current = self.main
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self.use)

    @contextmanager
    def use(self, stream: Stream) -> Any:
        before, self.current = self.current, stream
        yield
        self.current = before

    def launch(self, name: str) -> None:
        self.order.append(f"{name} on {self.current.name}")


class Stream:
    def __init__(self, name: str, owner: Device) -> None:
        self.name, self.owner, self.device = name, owner, torch.device("cuda")

    def wait_stream(self, other: Stream) -> None:
        self.owner.order.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def test_work_begins_after_what_was_there_and_ends_before_what_follows(device: Device) -> None:
    with overlap(device.side, lambda: device.launch("work")):
        device.launch("product")
    device.launch("sum")
    assert device.order == [
        "side waits for main",
        "work on side",
        "product on main",
        "main waits for side",
        "sum on main",
    ]


def test_a_body_that_fails_waits_too(device: Device) -> None:
    with pytest.raises(MemoryError), overlap(device.side, lambda: device.launch("work")):
        raise MemoryError
    assert device.order[-1] == "main waits for side"


def test_without_a_second_stream_one_follows_the_other() -> None:
    order: list[str] = []
    with overlap(None, lambda: order.append("work")):
        order.append("product")
    assert order == ["work", "product"]
