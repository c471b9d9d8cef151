"""One child process: started in a group of its own, listened to, and ended with all that it has started.

Whether it lives is asked of the process and never of its output: what it has started may outlive it, and then holds
the pipe open.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

STOP_SECONDS: Final = 10.0
ORPHAN_SECONDS: Final = 2.0
"""So long what a dead child has left behind may take to end by itself."""
LOOK_SECONDS: Final = 0.05
LAST_WORDS_SECONDS: Final = 1.0
"""So long its end waits for its output, which a process that left the group may hold open for ever."""
LONGEST_LINE: Final = 64 * 1024
PR_SET_PDEATHSIG: Final = 1


class Child:
    """A running command. `start` makes one."""

    def __init__(self, process: asyncio.subprocess.Process, listening: asyncio.Task[None]) -> None:
        self._process = process
        self._listening = listening

    @classmethod
    async def start(cls, command: tuple[str, ...], added: Mapping[str, str], say: Callable[[str], None]) -> Child:
        """Run `command` with `added` to our environment; every line of its output is told to `say`.

        Raises OSError when the system cannot start it.
        """
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **added},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return cls(process, asyncio.create_task(_listen(reading, say)))

    async def wait(self) -> int:
        """Wait for its end and for that of what it leaves behind; minus the signal's number if one ended it."""
        code = await self._process.wait()
        await self._end_orphans()
        await asyncio.wait({self._listening}, timeout=LAST_WORDS_SECONDS)
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
        is_anybody_left = self._signal(signal.SIGTERM)
        for _ in range(round(ORPHAN_SECONDS / LOOK_SECONDS)):
            if not is_anybody_left:
                return
            await asyncio.sleep(LOOK_SECONDS)
            is_anybody_left = self._signal(0)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> bool:
        """Send `number` to all of the group; whether anybody was there to get it."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


async def _listen(descriptor: int, say: Callable[[str], None]) -> None:
    """Tell every line that is written to the pipe, until nobody can write to it any more."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb"))
    try:
        async for line in _lines(reader):
            say(line.decode(errors="replace").rstrip())
    finally:
        pipe.close()


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What `reader` gives, line by line. One without an end is cut, so that it takes no memory."""
    begun = b""
    while chunk := await reader.read(LONGEST_LINE):
        *whole, begun = (begun + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(begun) > LONGEST_LINE:
            yield begun
            begun = b""
    if begun:
        yield begun


def _die_with_parent() -> None:
    """Ask Linux to end this child when its parent is killed, so that nothing keeps the port or the socket."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
