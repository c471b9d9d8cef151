"""The process manager behind `make run`: starts services, restarts one that dies or falls silent, ends them in order.

It knows commands, exit codes and signs of life only. Services start in the order given and stop in the reverse order,
so that the store which all others write to goes last.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from loraland.child import STOP_SECONDS, Child
from loraland.logs import LogFiles
from loraland.watch import Watch

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 10.0
STABLE_SECONDS: Final = 30.0
TRACEBACK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Service:
    """A child to keep alive: its `command`, what its environment adds to ours, how to see that it answers, and which
    listening `sockets` of ours it inherits, under the same numbers."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    watch: Watch | None = None
    sockets: tuple[socket.socket, ...] = ()


class Supervisor:
    """Keeps services running until `end` is called. What they write goes to `logs`, what becomes of them to `say`."""

    def __init__(self, say: Callable[[str], None], logs: LogFiles) -> None:
        self._say = say
        self._logs = logs
        self.early_ends: Counter[str] = Counter()
        """How often in a row each service has ended soon after its start."""
        self._stopping = asyncio.Event()
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._children: dict[str, Child] = {}

    def keep(self, service: Service) -> None:
        """Start `service`, and start it again whenever it ends or falls silent before its time."""
        self._keepers[service.name] = asyncio.create_task(self._keep(service), name=service.name)

    async def end(self) -> None:
        """End every service, the last one started first."""
        self._stopping.set()
        for name in reversed(self._keepers):
            await self._end(name)

    async def _keep(self, service: Service) -> None:
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            started = time.monotonic()
            outcome = await self._run(service)
            if self._stopping.is_set():
                return
            is_early = time.monotonic() - started <= STABLE_SECONDS
            delay = min(2 * delay, LONGEST_DELAY) if is_early else FIRST_DELAY
            self.early_ends[service.name] = self.early_ends[service.name] + 1 if is_early else 0
            self._say(f"{service.name} {outcome}; starting it again in {delay:g} s{self._logs.see(service.name)}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run(self, service: Service) -> str:
        """Run `service` to its end; what became of it."""
        try:
            output, numbers = self._logs.open(service.name), [each.fileno() for each in service.sockets]
            child = await Child.start(service.command, service.environment, output, numbers)
        except OSError as error:
            return f"could not be started ({error})"
        self._children[service.name] = child
        if self._stopping.is_set():
            await child.end()  # whoever stops the services had no child to end yet
        watching = asyncio.create_task(self._watch(service, child))
        try:
            return f"ended with {_outcome(await child.wait())}"
        finally:
            watching.cancel()

    async def _watch(self, service: Service, child: Child) -> None:
        """End `child` once it answers no more; where it stood is in its last words."""
        if service.watch is None:
            return
        while True:
            try:
                missed = await service.watch.silence()
                break
            except Exception as error:
                self._say(f"cannot see whether {service.name} answers: {error!r}")
        self._say(f"{service.name} is ended, since it no longer answers: {missed}{self._logs.see(service.name)}")
        await child.end(signal.SIGABRT, TRACEBACK_SECONDS)

    async def _end(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None and not await child.end():
            self._say(f"{name} did not stop within {STOP_SECONDS:g} s and was killed")
        await self._keepers[name]


def _outcome(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
