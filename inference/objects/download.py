"""Files from a store to the disk: in chunks side by side, never whole in memory, and on from where it was broken off.

Which chunks of a file are there is noted beside it. What the notes say is not believed: the file counts once its
SHA-256 is the one of the manifest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.objects.failures import Damaged, DiskFull
from inference.objects.manifest import Entry, sha256_of

CHUNK_BYTES: Final = 16 * 1024 * 1024
PARALLEL: Final = 4
"""Chunks that are read at once; so many times `CHUNK_BYTES` is the memory that a download takes."""

Read = Callable[[Entry, int, int], bytes]
"""Reads an entry from one byte to before another."""


def download(entries: Iterable[Entry], into: Path, read: Read) -> None:
    """Have all of `entries` in the folder `into`, where some of them may be, whole or in part.

    Raises `Damaged`, OSError, and what `read` raises; then what came so far stays for the next attempt, but for a file
    that is damaged.
    """
    files = [_File(entry, into) for entry in entries]
    check_space(into, sum(file.num_missing for file in files))
    for file in files:
        file.open()
    _fill(((file, chunk) for file in files for chunk in file.missing), read)
    for file in files:
        file.check()


def _fill(chunks: Iterable[tuple[_File, int]], read: Read) -> None:
    """A few chunks are under way at any time, and none is begun that nobody waits for any more."""
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="download") as pool:
        under_way = set[Future[None]]()
        for file, chunk in chunks:
            under_way.add(pool.submit(file.fill, chunk, read))
            if len(under_way) > PARALLEL:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
        for each in under_way:
            each.result()


def check_space(directory: Path, num_bytes: int) -> None:
    """Raise `DiskFull` where the disk has no room for so many more bytes."""
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        told = f"{num_bytes / 1e6:,.0f} MB are to come and {free / 1e6:,.0f} MB are free"
        raise DiskFull(f"the disk has no room: {told}", directory, num_bytes - free)


@dataclass(frozen=True)
class _File:
    entry: Entry
    directory: Path

    @property
    def path(self) -> Path:
        return self.directory / self.entry.name

    @property
    def notes(self) -> Path:
        """A line for each chunk that is there; gone once the file is whole."""
        return self.directory / f".{self.entry.name}.chunks"

    @property
    def missing(self) -> list[int]:
        """The chunks that are still to come."""
        noted = self._noted()
        return [chunk for chunk in range(-(-self.entry.size // CHUNK_BYTES)) if chunk not in noted]

    @property
    def num_missing(self) -> int:
        return min(self.entry.size, len(self.missing) * CHUNK_BYTES)

    def open(self) -> None:
        """A file of its size, with holes for what is to come."""
        if not self._noted():
            self.notes.write_bytes(b"")
        with self.path.open("ab") as file:
            file.truncate(self.entry.size)

    def fill(self, chunk: int, read: Read) -> None:
        start = chunk * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, self.entry.size)
        data = read(self.entry, start, end)
        if len(data) != end - start:
            raise Damaged(f"{self.entry.name} has {start + len(data)} bytes or fewer where {self.entry.size} should be")
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(data)
        with self.notes.open("a", encoding="ascii") as notes:
            notes.write(f"{chunk}\n")

    def check(self) -> None:
        if sha256_of(self.path) != self.entry.sha256:
            self.path.unlink()
            self.notes.unlink()
            raise Damaged(f"{self.entry.name} has other bytes than were stored")
        self.notes.unlink()

    def _noted(self) -> set[int]:
        if not self.path.exists() or self.path.stat().st_size != self.entry.size:
            return set()
        with suppress(FileNotFoundError):
            return {int(line) for line in self.notes.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")}
        return set()


def sync(directory: Path) -> None:
    """Have the files of `directory` on the disk before they are renamed into their place."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
