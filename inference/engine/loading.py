"""Adapters on their way into host memory, read by one background thread while others keep decoding.

An adapter that a live request wants stays in memory here, whatever the host cache forgets, so that a request
that lost its slot gets it back without the disk.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from inference.adapters.file import AdapterRefused, HostAdapter
from inference.adapters.stored import AdapterNotFound
from inference.engine.model_runner import OutOfMemory, is_out_of_memory
from inference.wire.protocol import Component, GateRef


@dataclass(frozen=True)
class Loaded:
    """The outcome of a load: `error` is None, or why there is no such adapter. `seconds` is how long it took."""

    digest: str
    seconds: float
    error: AdapterRefused | AdapterNotFound | OSError | OutOfMemory | None = None


class AdapterLoader:
    """Reads adapters with `load`, counts who wants them, and hands them to the device slots.

    What `find` gives is in memory already: a request for it need not wait for the thread, which would cost it a pass.
    """

    def __init__(
        self,
        load: Callable[[str, tuple[Component, ...], GateRef | None], HostAdapter],
        find: Callable[[str], HostAdapter | None] = lambda digest: None,
    ) -> None:
        self._load, self._find = load, find
        self._executor = _lone_thread()
        self._wanted: Counter[str] = Counter()
        self._pending: dict[str, Future[tuple[HostAdapter | None, Loaded]]] = {}
        self._ready: dict[str, HostAdapter] = {}

    @property
    def num_wanted(self) -> int:
        """Live requests that want an adapter."""
        return self._wanted.total()

    def want(self, digest: str, components: tuple[Component, ...] = (), gate: GateRef | None = None) -> bool:
        """Ask for an adapter, or the sum or blend of `components`, until `drop`; True when it is in memory already.

        Else `poll` will tell.
        """
        self._wanted[digest] += 1
        if digest not in self._ready and (kept := self._find(digest)):
            self._ready[digest] = kept
        if digest not in self._ready and digest not in self._pending:
            self._pending[digest] = self._executor.submit(self._read, digest, components, gate)
        return digest in self._ready

    def drop(self, digest: str) -> None:
        """Take back one `want`."""
        self._wanted[digest] -= 1
        assert self._wanted[digest] >= 0, f"adapter {digest[:12]} was dropped more often than wanted"
        if not self._wanted[digest]:
            del self._wanted[digest]
            self._ready.pop(digest, None)

    def poll(self, timeout: float = 0.0) -> list[Loaded]:
        """The loads that have ended since the last call, waiting up to `timeout` seconds for one of them."""
        if timeout and self._pending:
            wait(self._pending.values(), timeout, return_when="FIRST_COMPLETED")
        ended = [digest for digest, future in self._pending.items() if future.done()]
        outcomes = []
        for digest in ended:
            adapter, outcome = self._pending.pop(digest).result()
            if adapter is not None and digest in self._wanted:
                self._ready[digest] = adapter
            outcomes.append(outcome)
        return outcomes

    def has(self, digest: str) -> bool:
        """Whether an adapter that is wanted has been loaded."""
        return digest in self._ready

    def get(self, digest: str) -> HostAdapter:
        """An adapter that a live request wants and that has been loaded."""
        return self._ready[digest]

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown(cancel_futures=True)

    def _read(
        self, digest: str, components: tuple[Component, ...], gate: GateRef | None
    ) -> tuple[HostAdapter | None, Loaded]:
        start = time.monotonic()
        try:
            adapter = self._load(digest, components, gate)
        except (AdapterRefused, AdapterNotFound, OSError) as error:
            return None, Loaded(digest, time.monotonic() - start, error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None, Loaded(digest, time.monotonic() - start, OutOfMemory())
        return adapter, Loaded(digest, time.monotonic() - start)


def _lone_thread() -> ThreadPoolExecutor:
    """A thread whose arithmetic takes one core, so that decoding keeps the others.

    Torch keeps the number for each thread: it is set when a thread first asks for it, to the last one that any
    thread has set. So the new thread asks before it sets its own, and ours is set again behind it.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="adapter-loader")
    num_threads = torch.get_num_threads()
    executor.submit(torch.get_num_threads).result()
    executor.submit(torch.set_num_threads, 1).result()
    torch.set_num_threads(num_threads)
    return executor
