"""One child process: started in a group of its own, and ended with all that it has started."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

STOP_SECONDS: Final = 10.0
ORPHAN_SECONDS: Final = 2.0
"""So long what a dead child has left behind may take to end by itself."""
LOOK_SECONDS: Final = 0.05
PR_SET_PDEATHSIG: Final = 1
OUTSPOKEN: Final = {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
"""Lets Python's children write on SIGABRT where each of their threads is, even when none of them gets to Python, and
everything else at once.
"""


class Child:
    """A running command. `start` makes one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, command: tuple[str, ...], added: Mapping[str, str], output: int, inherited: Sequence[int] = ()
    ) -> Child:
        """Run `command` with `added` to our environment; what it writes goes to `output`, a descriptor that it closes.

        It inherits the descriptors `inherited` too, under the same numbers. Raises OSError when the system cannot start
        it.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **OUTSPOKEN, **added},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=inherited,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        finally:
            os.close(output)
        return cls(process)

    async def wait(self) -> int:
        """Wait for its end and for that of what it leaves behind; minus the signal's number if one ended it."""
        code = await self._process.wait()
        await self._end_orphans()
        return code

    async def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = STOP_SECONDS) -> bool:
        """Send `number` to the group, and SIGKILL after `seconds`; whether that was not needed."""
        if self._process.returncode is not None:
            return True
        self._signal(number)
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            return False
        return True

    async def _end_orphans(self) -> None:
        self._signal(signal.SIGTERM)
        for _ in range(round(ORPHAN_SECONDS / LOOK_SECONDS)):
            if not self._signal(0) or not runs(self._process.pid):
                return
            await asyncio.sleep(LOOK_SECONDS)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> bool:
        """Send `number` to all of the group; whether anybody was there to get it."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def runs(group: int) -> bool:
    """Whether a process of `group` runs: in a container without an init nobody buries the dead, which count as there
    otherwise. Where the system has no /proc to tell them apart they are taken to run."""
    if not (processes := Path("/proc")).is_dir():
        return True
    for path in processes.glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, _, its_group = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def _die_with_parent() -> None:
    """Ask Linux to end this child when its parent is killed, so that nothing keeps the port or the socket."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
