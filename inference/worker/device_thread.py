"""The one thread that owns the device: it makes the engine, steps it while there is work, and obeys an inbox.

It knows neither the wire nor asyncio's tasks. Whatever happens, it calls back on the event loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from inference.wire.capacity import Capacity
from inference.wire.contract import Resume
from inference.wire.protocol import EngineLoad, Event, QueueClass, Request

LOAD_SECONDS: Final = 0.5
"""How often a busy engine is asked for its load; asking at every step would cost more than it tells. One that has
no work is always asked: what it answers stands until it has some."""
IDLE_SECONDS: Final = 1.0
"""How often an engine without work is asked for its load: so it is known that all it computes on is still there."""
STALLED_LOOKS: Final = 10
"""In how many looks in a row the device must be found in one step to count as hung."""


class DeviceHung(Exception):
    """The device's thread does not come back from a step."""


class SteppedEngine(Protocol):
    """What the thread needs of `inference.engine.engine.Engine`."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def has_work(self) -> bool: ...

    @property
    def capacity(self) -> Capacity: ...

    def add(self, request: Request, resume: Resume | None = None, queue_class: QueueClass = "chat") -> None: ...

    def interrupt(self) -> None: ...

    def stop(self, id: str) -> None: ...

    def abort(self, id: str) -> None: ...

    def step(self) -> list[Event]: ...

    @property
    def load(self) -> EngineLoad: ...


@dataclass(frozen=True)
class Report:
    """What one step gave. `handled` counts the commands that the engine had obeyed before it."""

    events: tuple[Event, ...]
    capacity: Capacity
    handled: int
    fingerprint: str
    load: EngineLoad


class DeviceThread:
    """Runs the engine that `make` gives. `on_report` and `on_crash` are called on the loop that calls `start`.

    The first report comes when the engine is loaded. Commands return their number, counted from 1, which
    `Report.handled` reaches once they have been obeyed.
    """

    def __init__(
        self,
        make: Callable[[], SteppedEngine],
        on_report: Callable[[Report], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._make = make
        self._on_report = on_report
        self._on_crash = on_crash
        self._inbox: queue.SimpleQueue[Callable[[SteppedEngine], None] | None] = queue.SimpleQueue()
        self._sent = 0
        self._handled = 0
        self._turn = 0
        self._is_idle = True
        self._engine: SteppedEngine | None = None
        self._closed = threading.Event()
        self._load = EngineLoad()
        self._asked = float("-inf")
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def add(self, request: Request, resume: Resume | None, queue_class: QueueClass, is_newcomer: bool = False) -> int:
        """For a newcomer the step under way may be interrupted."""
        number = self._send(lambda engine: engine.add(request, resume, queue_class))
        if is_newcomer and self._engine:
            self._engine.interrupt()
        return number

    def stop(self, id: str) -> int:
        return self._send(lambda engine: engine.stop(id))

    def abort(self, id: str) -> int:
        return self._send(lambda engine: engine.abort(id))

    def close(self) -> None:
        """Ask the thread to end after the step it is in. A load under way is not interrupted."""
        self._closed.set()
        self._inbox.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the end of the thread; whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    async def watch(self, seconds: float) -> None:
        """Raise `DeviceHung` once a step has taken `seconds`: it would keep its leases and its readers waiting.

        Looks are counted and not seconds, because after a sleep of the whole process much time seems to have passed.
        """
        seen, looks = -1, 0
        while looks < STALLED_LOOKS:
            await asyncio.sleep(seconds / STALLED_LOOKS)
            looks = looks + 1 if self._turn == seen and not self._is_idle else 0
            seen = self._turn
        raise DeviceHung(f"the device has been in one step for {seconds:g} seconds")

    def _send(self, command: Callable[[SteppedEngine], None]) -> int:
        self._sent += 1
        self._inbox.put(command)
        return self._sent

    def _run(self) -> None:
        try:
            engine = self._engine = self._make()
            self._report(engine, [])
            while self._obey(engine):
                self._report(engine, engine.step() if engine.has_work else [])
                self._turn += 1
        except BaseException as error:
            # Whatever ended the thread ends the worker: the loop logs it and gives the requests back.
            self._call_back(self._on_crash, error)

    def _obey(self, engine: SteppedEngine) -> bool:
        """Do what the inbox says, waiting for a command when there is no work; false when closed."""
        wait = not engine.has_work
        while not self._closed.is_set():
            self._is_idle = wait
            try:
                command = self._inbox.get(block=wait, timeout=IDLE_SECONDS)
            except queue.Empty:
                self._is_idle = False  # what tells the engine's load may hang as a step may
                return True
            self._is_idle = False
            if command:
                command(engine)
                self._handled += 1
            wait = False
        return False

    def _report(self, engine: SteppedEngine, events: list[Event]) -> None:
        if not engine.has_work or time.monotonic() - self._asked > LOAD_SECONDS:
            self._load, self._asked = engine.load, time.monotonic()
        report = Report(tuple(events), engine.capacity, self._handled, engine.fingerprint, self._load)
        self._call_back(self._on_report, report)

    def _call_back(self, callback: Callable[[Any], None], news: Any) -> None:
        if not self._closed.is_set():
            self._loop.call_soon_threadsafe(callback, news)
