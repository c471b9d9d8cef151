"""`python -m tests.bench.stamped`: a worker whose every piece tells when it was made, `PIECES` a second in all."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Final

from inference.config import read_config
from inference.wire.protocol import Delta, Event
from inference.wire.redis_wire import RedisWire
from inference.worker.worker import Worker, WorkerConfig
from tests.inference.fake_engine import FakeEngine

STEP_SECONDS: Final = 0.025
ROWS: Final = 1100


class StampedEngine(FakeEngine):
    """Speaks for a few of its answers in each step, in turn. A piece is its number and its time: ``3:1790000.123``."""

    def __init__(self, pieces: float) -> None:
        super().__init__("stamped", ROWS, STEP_SECONDS)
        self._pieces, self._due, self._spoken = pieces, 0.0, time.monotonic()

    def step(self) -> list[Event]:
        time.sleep(self._step_seconds)
        now = time.monotonic()
        self._due += (now - self._spoken) * self._pieces
        self._spoken = now
        return [event for _ in range(self._take_due()) for event in self._speak()]

    def _take_due(self) -> int:
        """How many pieces are to be made now: what a late step missed is not made up for."""
        count = min(int(self._due), len(self._running), 4 * max(1, round(self._pieces * self._step_seconds)))
        self._due = self._due % 1
        return count

    def _speak(self) -> list[Event]:
        id = next(iter(self._running), None)
        if id is None:
            return []
        self._running[id] = self._running.pop(id)  # to the end of the row
        return [self._stamped(event) for event in self._advance(id)]

    def _stamped(self, event: Event) -> Event:
        if not isinstance(event, Delta):
            return event
        return Delta(event.id, f"{event.token_ids[0]}:{time.time():.4f} ", event.token_ids)


async def main() -> int:
    config = read_config()
    async with RedisWire.connect(config.redis_url) as wire:
        settings = WorkerConfig(config.base_key, "stamped", config.lease_seconds)
        worker = Worker(wire, lambda: StampedEngine(float(os.environ["PIECES"])), settings)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.close)
        return await worker.run()


if __name__ == "__main__":
    os._exit(asyncio.run(main()))
