"""Work on a second stream while the first goes on: where the first is captured, a branch of its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def overlap(stream: torch.cuda.Stream | None, work: Callable[[], None]) -> Iterator[None]:
    """Let `work` run on `stream` while what the body launches runs on the current one, which waits for it at the end.

    `work` begins when what was launched before has ended. It must write to nothing but memory that was allocated
    before and is kept until the end, for the allocator takes memory to be free as soon as its own stream is done with
    it. Without a `stream`, as on a CPU, `work` is done first.
    """
    if stream is None:
        work()
        yield
        return
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            work()
        yield
    finally:
        # Also where memory has run out: what `work` writes to may be another's as soon as this is left.
        current.wait_stream(stream)
