"""What a folder in a store holds: its files with their sizes and SHA-256. It is written last, so whoever finds one
finds all of the folder."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference.objects.failures import Damaged

MANIFEST: Final = "complete.json"
_FORMAT: Final = 1
NAME: Final = re.compile(r"\w[\w.-]{0,199}", re.ASCII)
"""How files are called in a folder, and models in a store."""
_SHA: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A file of a folder."""

    name: str
    size: int
    sha256: str

    @property
    def object_name(self) -> str:
        """What its bytes are called in the store: by themselves, so that writers of other bytes do not meet."""
        return f"{self.sha256}-{self.name}"


@dataclass(frozen=True)
class Manifest:
    """All files of a folder. `written` is a time in seconds; `source` says of a model where it came from."""

    entries: tuple[Entry, ...]
    written: float
    source: str = ""

    @property
    def num_bytes(self) -> int:
        return sum(entry.size for entry in self.entries)

    def encoded(self) -> bytes:
        files = {entry.name: {"size": entry.size, "sha256": entry.sha256} for entry in self.entries}
        told = {"format": _FORMAT, "written": self.written, "source": self.source, "files": files}
        return (json.dumps(told, indent=1) + "\n").encode()


def manifest_of(directory: Path, names: Iterable[str], source: str = "") -> Manifest:
    """The manifest of the files `names` in `directory`. Raises OSError."""
    paths = [directory / name for name in sorted(names)]
    assert all(NAME.fullmatch(path.name) for path in paths), "names of files are plain"
    entries = tuple(Entry(path.name, path.stat().st_size, sha256_of(path)) for path in paths)
    return Manifest(entries, time.time(), source)


def parse_manifest(raw: bytes, folder: str) -> Manifest:
    """The manifest in the bytes of an object; whoever wrote them, no name in it leads out of a folder. Raises
    `Damaged`."""
    try:
        told = json.loads(raw)
        entries = tuple(_entry(name, about) for name, about in told["files"].items())
        if told["format"] != _FORMAT or not entries:
            raise ValueError("another format")
        return Manifest(entries, float(told["written"]), str(told["source"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} of {folder} is damaged ({type(error).__name__})") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 in hex of a file, of which no more than a piece is in memory. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(name: str, about: dict[str, Any]) -> Entry:
    size, sha256 = about["size"], about["sha256"]
    if not NAME.fullmatch(name) or type(size) is not int or size < 0 or not _SHA.fullmatch(sha256):
        raise ValueError("an entry that cannot be")
    return Entry(name, size, sha256)
