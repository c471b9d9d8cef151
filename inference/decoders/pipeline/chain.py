"""The ring of stages: each sends to the one behind it, and the last one to the first, through torch.distributed.

Frames arrive in the order in which they were sent. Sending waits for nobody, receiving does.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from inference.decoders.pipeline.frame import Frame, decode, encode, length_of

PIECE: Final = 65536
"""Bytes that are sent at once with the length of a frame: of most frames all, since each message is a meeting of two
threads."""
MOST_SENT: Final = 64
"""Frames on their way before a stage waits for the next one to take them."""
_FOREVER: Final = timedelta(days=300)
"""Nobody asks a worker for days, and its stages wait. One that hangs in a pass is a device that hangs."""


class StageLost(Exception):
    """A stage has ended, and with it what the others compute."""


class Chain:
    """The place of stage `rank` among `count`. `group` carries bytes: gloo's on CPUs."""

    def __init__(self, group: Any, rank: int, count: int) -> None:
        self._group, self.rank, self.count = group, rank, count
        self._next, self._previous = (rank + 1) % count, (rank - 1) % count
        self._sent: deque[tuple[Any, Tensor]] = deque()

    def send(self, frame: Frame) -> None:
        """To the next stage. What is on its way is kept until `settle`."""
        content = encode(frame)
        first = torch.empty(PIECE, dtype=torch.uint8)
        first[: len(content)] = content[:PIECE]
        for piece in filter(len, (first, content[PIECE:])):
            self._sent.append((self._guarded(partial(self._group.send, [piece], self._next, 0)), piece))

    def receive(self) -> Frame:
        """The next frame of the stage before. Raises `StageLost`."""
        first = torch.empty(PIECE, dtype=torch.uint8)
        self._take(first)
        content = torch.empty(max(length_of(first), PIECE), dtype=torch.uint8)
        content[:PIECE] = first
        if len(content) > PIECE:
            self._take(content[PIECE:])
        return decode(content)

    def settle(self, most: int = 0) -> None:
        """Wait until all but the last `most` pieces have been taken."""
        while len(self._sent) > most:
            work, _ = self._sent.popleft()
            self._guarded(work.wait)

    def _take(self, piece: Tensor) -> None:
        self._guarded(lambda: self._group.recv([piece], self._previous, 0).wait())

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RuntimeError as error:
            raise StageLost(f"stage {self.rank + 1} of {self.count} lost the one beside it: {error}") from error


def join(store: Any, rank: int, count: int, host: str) -> Chain:
    """Meet the others at the `store` of torch.distributed, which all do at once, and talk to them through the address
    `host` of this machine. A group of our own and not the process's one: who tests or serves may have several."""
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
    options._timeout = _FOREVER
    shared = dist.PrefixStore("chain", store)  # type: ignore[attr-defined]
    return Chain(dist.ProcessGroupGloo(shared, rank, count, options), rank, count)


def own_address(host: str, port: int) -> str:
    """The address of this machine by which it reaches `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])
