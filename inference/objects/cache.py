"""Folders of a store on this host's disk, within a bound and the room there is: those used longest ago go first.

All processes of the host share it. Locks are on the folders themselves (`flock`), so one that dies lets go of them: a
folder is brought by one while others wait, and none is removed while somebody reads it. What a process has mapped of
a file stays readable after the file is gone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from inference.objects.download import sync
from inference.objects.failures import Damaged, DiskFull, NotStored

PARTIAL: Final = ".partial"
DAMAGED: Final = ".damaged"
REMOVED: Final = ".removed"
KEPT_DAMAGED_SECONDS: Final = 7 * 24 * 3600
SLACK: Final = 50
"""All of the cache is measured again once a process has brought this part of the bound."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Folder:
    path: Path
    used: float
    num_bytes: int


class FolderCache:
    """The folders below `directory`, of about `max_bytes` together. `bring` writes the files of a folder of a name into
    an empty directory, or one where an earlier attempt was broken off. Safe to call from several threads."""

    def __init__(self, directory: Path, max_bytes: int, bring: Callable[[str, Path], None]) -> None:
        self.directory, self._max_bytes, self._bring = directory, max_bytes, bring
        self._brought = max_bytes
        directory.mkdir(parents=True, exist_ok=True)
        self._clear()

    def has(self, name: str) -> bool:
        """Whether the folder is on the disk."""
        return (self.directory / name).is_dir()

    @contextmanager
    def held(self, name: str) -> Iterator[Path]:
        """The folder `name`, brought here if need be, which stays while it is held.

        Raises what `bring` raises; of `Damaged` ones a copy stays beside, for whoever looks into it.
        """
        place = self.directory / name
        while (lock := _locked(place, fcntl.LOCK_SH)) is None:
            self._fetch(name, place)
        try:
            with suppress(PermissionError):  # another user's, who brought it
                os.utime(lock, ns=(time.time_ns(), time.time_ns()))
            yield place
        finally:
            os.close(lock)

    def adopt(self, name: str, directory: Path) -> None:
        """Take `directory`, which lies on the same disk and is the store's folder `name`, as what was brought."""
        try:
            os.rename(directory, self.directory / name)
        except OSError:  # it was brought meanwhile
            shutil.rmtree(directory, ignore_errors=True)
        self._trim(name)

    def forget(self, name: str) -> None:
        """Remove the copy of `name`. Who holds it reads on."""
        with suppress(FileNotFoundError):
            _remove(self.directory / name)

    def _fetch(self, name: str, place: Path) -> None:
        """Bring the folder, unless another thread or process has meanwhile."""
        partial = self.directory / f".{name}{PARTIAL}"
        partial.mkdir(exist_ok=True)
        lock = _locked(partial, fcntl.LOCK_EX)
        if lock is None:
            return
        try:
            if not place.exists():
                self._bring_whole(name, partial)
                os.rename(partial, place)
            else:
                shutil.rmtree(partial)
        finally:
            os.close(lock)
        self._trim(name)

    def _bring_whole(self, name: str, partial: Path) -> None:
        try:
            self._bring_into_room(name, partial)
            sync(partial)
        except NotStored:
            shutil.rmtree(partial)
            raise
        except Damaged as error:
            aside = self.directory / f".{name}{DAMAGED}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(partial, aside)
            log.error("damaged in the store folder=%s error=%s", name, error)
            raise

    def _bring_into_room(self, name: str, partial: Path) -> None:
        """Where the disk is full, what is kept here goes first, if that is enough."""
        try:
            self._bring(name, partial)
        except DiskFull as error:
            folders = list(self._folders())
            if sum(folder.num_bytes for folder in folders if folder.path != partial) < error.lacking:
                raise
            log.warning("the disk is full, what was used longest ago gives way to folder=%s", name)
            _remove_oldest(folders, error.lacking, partial.name)
            self._bring(name, partial)

    def _trim(self, newest: str) -> None:
        """Remove what was used longest ago, until the rest is within the bound; `newest` stays in any case."""
        self._brought += _num_bytes(self.directory / newest)
        if self._brought * SLACK < self._max_bytes:
            return
        self._brought = 0
        folders = list(self._folders())
        _remove_oldest(folders, sum(folder.num_bytes for folder in folders) - self._max_bytes, newest)

    def _folders(self) -> Iterator[_Folder]:
        for path in self.directory.iterdir():
            with suppress(FileNotFoundError):
                yield _Folder(path, path.stat().st_mtime, _num_bytes(path))

    def _clear(self) -> None:
        """Remove what processes left behind that died. One that lives has a lock on what it writes."""
        for path in self.directory.glob(".*"):
            with suppress(FileNotFoundError):
                is_old = time.time() - path.stat().st_mtime > KEPT_DAMAGED_SECONDS
                if path.suffix == REMOVED or (path.suffix == DAMAGED and is_old):
                    shutil.rmtree(path, ignore_errors=True)
                elif path.suffix == PARTIAL:
                    _evict(path)


def _locked(path: Path, how: int) -> int | None:
    """A lock on the folder at `path` that ends when it is closed; None where it is not there, or another by now."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, how)
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _remove_oldest(folders: Iterable[_Folder], num_bytes: int, spared: str) -> None:
    """Remove those of `folders` that were used longest ago until so many bytes are gone, but not the one `spared`."""
    for folder in sorted(folders, key=lambda folder: folder.used):
        if num_bytes > 0 and folder.path.name != spared and _evict(folder.path):
            num_bytes -= folder.num_bytes


def _evict(path: Path) -> bool:
    """Remove the folder at `path` unless somebody holds it; whether it is gone."""
    lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None:
        return False
    try:
        _remove(path)
    finally:
        os.close(lock)
    return True


def _remove(path: Path) -> None:
    """In one step, before its files are deleted one by one."""
    away = path.with_name(f".{uuid4().hex}{REMOVED}")
    os.rename(path, away)
    shutil.rmtree(away, ignore_errors=True)


def _num_bytes(path: Path) -> int:
    """The bytes on the disk of the folder, or file, at `path`."""
    total = 0
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total
