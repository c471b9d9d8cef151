"""An engine without a model, at the seam that `inference.worker.device_thread.SteppedEngine` names.

Token i of every answer is the word "i ", so that a gap or a repeat is seen at once in the text.
"""

from __future__ import annotations

import time

from inference.wire.capacity import Capacity
from inference.wire.contract import Resume
from inference.wire.protocol import Delta, EngineLoad, Event, Finished, Generate, Probe, QueueClass, Stats


class FakeEngine:
    """Decodes all its requests together, `step_seconds` a step. A prompt of "explode" raises in its first step."""

    def __init__(self, fingerprint: str = "fake", capacity: int = 8, step_seconds: float = 0.001) -> None:
        self.fingerprint = fingerprint
        self._capacity = capacity
        self._step_seconds = step_seconds
        self._running: dict[str, tuple[Generate | Probe, int]] = {}
        self._stopped: set[str] = set()
        self.aborted: list[str] = []
        self.num_interrupts = 0

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    @property
    def capacity(self) -> Capacity:
        left = self._capacity - len(self._running)
        return Capacity(left, idle=left)

    def add(self, request: Generate | Probe, resume: Resume | None = None, queue_class: QueueClass = "chat") -> None:
        assert request.id not in self._running, f"request {request.id} is here already"
        self._running[request.id] = (request, len(resume.token_ids) if resume else 0)

    def interrupt(self) -> None:
        self.num_interrupts += 1

    def stop(self, id: str) -> None:
        self._stopped.add(id)

    def abort(self, id: str) -> None:
        self.aborted.append(id)
        self._running.pop(id, None)

    @property
    def load(self) -> EngineLoad:
        return EngineLoad(running=len(self._running))

    def step(self) -> list[Event]:
        time.sleep(self._step_seconds)
        return [event for id in list(self._running) for event in self._advance(id)]

    def _advance(self, id: str) -> list[Event]:
        request, index = self._running[id]
        if isinstance(request, Probe):
            return self._finish(id, Finished(id, "done"))
        if request.prompt == "explode":
            raise RuntimeError("the device is gone")
        if id in self._stopped:
            return self._finish(id, Finished(id, "stopped"))
        if index == request.sampling.max_tokens:
            return self._finish(id, Finished(id, "length", Stats(completion_tokens=index)))
        self._running[id] = (request, index + 1)
        return [Delta(id, f"{index} ", (index,))]

    def _finish(self, id: str, event: Finished) -> list[Event]:
        del self._running[id]
        self._stopped.discard(id)
        return [event]


def text_of(num_tokens: int) -> str:
    """The whole answer of `num_tokens` tokens."""
    return "".join(f"{index} " for index in range(num_tokens))
