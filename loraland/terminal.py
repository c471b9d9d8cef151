"""What a person at the keyboard sees: stages, one line each, and plain sentences between them.

On a terminal the line of a stage that is under way is written anew in place; a pipe or a file gets plain lines.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TextIO

DRAW_SECONDS: Final = 0.5
TELL_SECONDS: Final = 30.0
"""How often a pipe is told of a stage that is under way."""


class Terminal:
    """Writes to `out`, and never fails: whoever listens may be gone, or its disk full."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_live = out.isatty()

    def say(self, line: str, end: str = "\n") -> None:
        width = shutil.get_terminal_size().columns - 1
        with suppress(OSError, ValueError):
            self._out.write((f"\r{' ' * width}\r" if self._is_live else "") + (line if end else line[:width]) + end)
            self._out.flush()

    @asynccontextmanager
    async def stage(self, name: str, progress: Callable[[], str], done: str = "") -> AsyncIterator[None]:
        """Show what `progress` tells while the block runs, at its end `done` or that once more, with the seconds."""
        begun = time.monotonic()

        def line(told: str) -> str:
            return f"  {name:<12}{told} ({time.monotonic() - begun:.0f} s)"

        showing = asyncio.create_task(self._show(lambda: line(progress())))
        try:
            yield
            self.say(line(done or progress()))
        except Exception:
            self.say(line("failed"))
            raise
        finally:
            showing.cancel()

    async def _show(self, line: Callable[[], str]) -> None:
        while True:
            await asyncio.sleep(DRAW_SECONDS if self._is_live else TELL_SECONDS)
            self.say(line(), "" if self._is_live else "\n")
