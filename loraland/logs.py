"""The logs of the site: a file for each process, kept small, and nothing in them that strangers may fill."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

LIMIT: Final = 4 * 2**20
"""A log that has grown to so many bytes becomes the newest of its old ones."""
KEPT: Final = 3
SHOWN: Final = 12
STDOUT: Final = 1


class LogFiles:
    """The logs in `directory`, to which processes write themselves: their last words are kept, whoever dies first.

    Without a directory they write where we do.
    """

    def __init__(self, directory: Path | None, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say

    def open(self, name: str, more: int = 0) -> int:
        """A descriptor for what a process called `name` writes; our own output, if its file cannot be opened."""
        if self._directory:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                return os.open(self._directory / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | more, 0o600)
            except OSError as error:
                self._say(f"{name} writes here, for its log cannot be written: {error}")
        return os.dup(STDOUT)

    def see(self, name: str) -> str:
        """Where to read what `name` has written, to follow a sentence; nothing without a directory."""
        return f" (see {self._directory}/{name}.log)".replace(f"{Path.cwd()}/", "") if self._directory else ""

    def tail(self, name: str) -> list[str]:
        """The last lines that `name` has written, without what would move a terminal's cursor."""
        with suppress(OSError), Path(f"{self._directory}/{name}.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
            lines = file.read().decode(errors="replace").splitlines()
            return ["".join(filter(str.isprintable, line)) for line in lines if line.strip()][-SHOWN:]
        return []

    async def keep_small(self) -> None:
        """Put away what has grown too large, until cancelled. Where that finds no room, no log can grow."""
        while self._directory:
            await asyncio.sleep(1)
            for path in self._directory.glob("*.log"):
                with suppress(OSError):
                    await asyncio.to_thread(rotate, path)


def rotate(path: Path) -> None:
    """Copy the end of a log that is too large and empty it: its process holds it open."""
    if path.stat().st_size < LIMIT:
        return
    copy, *old = (path.with_suffix(suffix) for suffix in (".new", *(f".log.{age}" for age in range(KEPT, 0, -1))))
    copy.touch(0o600)
    with path.open("rb") as log, copy.open("wb") as file:
        log.seek(-LIMIT, os.SEEK_END)
        file.write(log.read(LIMIT))
        file.flush()
        file.write(log.read(LIMIT))  # what has come meanwhile
        file.flush()
        os.truncate(path, 0)
    for older, newer in pairwise((*old, copy)):
        with suppress(FileNotFoundError):
            newer.replace(older)


class Brief(logging.Filter):
    """Leaves the traceback out of what Django calls suspicious: it is the same each time, and a hundred times longer
    than the request.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security."):
            record.exc_info = record.exc_text = None
        return True
