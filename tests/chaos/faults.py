"""What befalls the processes of a site, one fault at a time: a kill, or a sleep that is longer than a lease."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests.bench.site import Site
from tests.chaos.world import processes


@dataclass(frozen=True)
class Fault:
    """`victim` is killed, or sleeps for `seconds`; `weight` is how often it is drawn."""

    victim: str
    seconds: float = 0.0
    weight: int = 1

    def __str__(self) -> str:
        return f"{self.victim} sleeps {self.seconds:g} s" if self.seconds else f"{self.victim} killed"


FAULTS: Final = (
    Fault("worker", weight=6),
    Fault("web", weight=3),
    Fault("redis", weight=2),
    Fault("celery", weight=2),
    Fault("recorder", weight=2),
    Fault("trainer", weight=1),
    Fault("worker", seconds=6.0),
    Fault("web", seconds=4.0),
    Fault("redis", seconds=3.0),
)


class Storm:
    """Draws a fault every `interval` seconds, `count` in all, and a worker's death whenever none came for a while."""

    def __init__(self, site: Site, seed: int, interval: float, victims: tuple[str, ...]) -> None:
        self._site, self._interval = site, interval
        self._chance = random.Random(seed)
        self._faults = [fault for fault in FAULTS if fault.victim in victims]
        self.done: Counter[str] = Counter()

    async def rage(self, count: int) -> None:
        while self.done.total() < count:
            await asyncio.sleep(self._interval * self._chance.uniform(0.7, 1.3))
            [fault] = self._chance.choices(self._faults, [possible.weight for possible in self._faults])
            await self._strike(fault)

    async def _strike(self, fault: Fault) -> None:
        """A victim that is being started anew is left alone: the fault does not count."""
        victims = processes(self._site).get(fault.victim, [])
        if not victims:
            return
        pid = self._chance.choice(victims)
        print(f"{self.done.total() + 1:>4}  {fault}, process {pid}", flush=True)
        with suppress(ProcessLookupError):
            if fault.seconds:
                await _put_to_sleep(pid, fault.seconds)
            else:
                os.kill(pid, signal.SIGKILL)
            self.done[str(fault)] += 1


async def _put_to_sleep(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
