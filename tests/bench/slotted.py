"""An engine that computes nothing and keeps time: rows, slots and a loader as a worker has them, and sleep for work.

A pass takes longer the more rows it has, and an adapter that is in no slot is loaded by one thread, each in its turn.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from inference.wire.capacity import Capacity
from inference.wire.contract import Resume
from inference.wire.protocol import Delta, EngineLoad, Event, Finished, Generate, Probe, QueueClass, Stats

LOOK_AHEAD: Final = 8
NEWCOMERS: Final = 8
IDLE_SECONDS: Final = 0.005


@dataclass(frozen=True)
class Pace:
    """`pass_seconds` and `row_seconds` for each row make a pass; a load takes `load_seconds`."""

    rows: int = 16
    slots: int = 64
    pass_seconds: float = 0.012
    row_seconds: float = 0.0019
    load_seconds: float = 0.15


@dataclass
class _Answer:
    request: Generate
    load_ms: float
    tokens: int = 0
    first_token_ms: float = 0.0


class SlottedEngine:
    """Answers with words that are numbers. An answer's `Stats.load_ms` is 0 where its adapter was in a slot."""

    fingerprint = "slotted"

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: OrderedDict[str, _Answer] = OrderedDict()
        self._running: OrderedDict[str, _Answer] = OrderedDict()
        self._slots: OrderedDict[str, float] = OrderedDict()
        self._loader_free = 0.0
        self._loads: Counter[str] = Counter()

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def capacity(self) -> Capacity:
        left = self._pace.rows + LOOK_AHEAD - len(self._waiting) - len(self._running)
        return Capacity(max(0, left), 0, max(0, min(NEWCOMERS, NEWCOMERS + left)), left - LOOK_AHEAD)

    @property
    def load(self) -> EngineLoad:
        loads = self._loads
        return EngineLoad(
            on_device=tuple(self._slots),
            running=len(self._running),
            waiting=len(self._waiting),
            loads=loads.total(),
            reloads=loads.total() - len(loads),
        )

    def add(self, request: Generate | Probe, resume: Resume | None = None, queue_class: QueueClass = "chat") -> None:
        assert isinstance(request, Generate)
        self._waiting[request.id] = _Answer(request, self._want(request.adapter.digest) if request.adapter else 0.0)

    def interrupt(self) -> None:
        """A pass is not broken off."""

    def stop(self, id: str) -> None:
        self.abort(id)

    def abort(self, id: str) -> None:
        self._waiting.pop(id, None)
        self._running.pop(id, None)

    def step(self) -> list[Event]:
        self._start()
        if not self._running:
            time.sleep(IDLE_SECONDS)
            return []
        time.sleep(self._pace.pass_seconds + self._pace.row_seconds * len(self._running))
        return [event for answer in list(self._running.values()) for event in self._advance(answer)]

    def _want(self, digest: str) -> float:
        """Put `digest` into a slot; milliseconds until it is there."""
        now = time.monotonic()
        if digest not in self._slots:
            self._evict()
            self._loader_free = max(now, self._loader_free) + self._pace.load_seconds
            self._slots[digest] = self._loader_free
            self._loads[digest] += 1
        self._slots.move_to_end(digest)
        return max(0.0, self._slots[digest] - now) * 1000

    def _evict(self) -> None:
        live = (*self._waiting.values(), *self._running.values())
        used = {answer.request.adapter.digest for answer in live if answer.request.adapter}
        idle = [digest for digest in self._slots if digest not in used]
        for digest in idle[: max(0, len(self._slots) + 1 - self._pace.slots)]:
            del self._slots[digest]

    def _start(self) -> None:
        """Give rows to those whose adapters are there, in order of arrival."""
        now = time.monotonic()
        for id, answer in list(self._waiting.items()):
            adapter = answer.request.adapter
            if len(self._running) < self._pace.rows and (not adapter or self._slots[adapter.digest] <= now):
                self._running[id] = self._waiting.pop(id)

    def _advance(self, answer: _Answer) -> list[Event]:
        request = answer.request
        answer.first_token_ms = answer.first_token_ms or (time.time() - request.created) * 1000
        answer.tokens += 1
        events: list[Event] = [Delta(request.id, f"{answer.tokens} ", (answer.tokens,))]
        if answer.tokens == request.sampling.max_tokens:
            stats = Stats(1, answer.tokens, load_ms=answer.load_ms, first_token_ms=answer.first_token_ms)
            events.append(Finished(request.id, "length", stats))
            del self._running[request.id]
        return events
