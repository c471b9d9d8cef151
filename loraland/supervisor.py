"""The process manager behind `make run`: starts the services, restarts one that dies, ends them in order.

It knows commands and exit codes only. Services start in the order given and stop in the reverse order, so
that the store which all others write to goes last.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

STOP_SECONDS: Final = 10.0
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 10.0
STABLE_SECONDS: Final = 30.0
PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Service:
    """A child to keep alive: its `command` and what its environment adds to ours."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """Keeps services running until `stop` is called."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._stopping = asyncio.Event()
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._children: dict[str, asyncio.subprocess.Process] = {}

    def keep(self, service: Service) -> None:
        """Start `service`, and start it again whenever it ends before its time."""
        self._keepers[service.name] = asyncio.create_task(self._keep(service), name=service.name)

    def stop(self) -> None:
        self._stopping.set()

    async def wait(self) -> None:
        """Wait for `stop`, then end every service, the last one started first."""
        await self._stopping.wait()
        for name in reversed(self._keepers):
            await self._end(name)

    async def _keep(self, service: Service) -> None:
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run(service)
            if self._stopping.is_set():
                return
            delay = FIRST_DELAY if time.monotonic() - started > STABLE_SECONDS else min(2 * delay, LONGEST_DELAY)
            self._say(f"{service.name} ended with {_outcome(code)}; starting it again in {delay:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run(self, service: Service) -> int:
        child = await asyncio.create_subprocess_exec(
            *service.command,
            env={**os.environ, **service.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1024 * 1024,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        self._children[service.name] = child
        assert child.stdout is not None
        async for line in child.stdout:
            self._say(f"{service.name:>8} | {line.decode(errors='replace').rstrip()}")
        return await child.wait()

    async def _end(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None and child.returncode is None:
            _signal(child, signal.SIGTERM)
            try:
                await asyncio.wait_for(child.wait(), STOP_SECONDS)
            except TimeoutError:
                self._say(f"{name} did not stop within {STOP_SECONDS:g} s and was killed")
                _signal(child, signal.SIGKILL)
        await self._keepers[name]


def _die_with_parent() -> None:
    """Ask Linux to end this child when its parent is killed, so that nothing keeps the port or the socket."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(child: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _outcome(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
