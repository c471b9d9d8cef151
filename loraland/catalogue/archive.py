"""A .zip that holds an adapter's two files and nothing else, read without trusting a word of it."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO, Final

from inference.reading import reading
from loraland.catalogue import store

MAX_DIRECTORY_BYTES: Final = 64 * 1024
CHUNK_BYTES: Final = 1024 * 1024
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
WANTED: Final = f"{store.CONFIG} and {store.WEIGHTS}"

_END: Final = struct.Struct("<4s4H2LH")
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, struct.error)
"""What damage is known to raise; all else is a reason too (`inference.reading`)."""


class ArchiveRefused(ValueError):
    """An archive that is not exactly an adapter; `reasons` are sentences."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = reasons


def read_archive(file: IO[bytes]) -> dict[str, Iterable[bytes]]:
    """The contents of the adapter's two files in the archive `file`, by name, in chunks.

    Raises `ArchiveRefused` with every reason; reading the chunks may raise it too, for data that is damaged.
    """
    with reading("The .zip", _refused):
        _check_end(file)
        try:
            archive = zipfile.ZipFile(file)
            entries = archive.infolist()
        except _BROKEN as error:
            raise _refused(f"The .zip is damaged ({error}); make it again.") from error
        if reasons := _problems(entries):
            raise ArchiveRefused(reasons)
    return {entry.filename: _inflate(archive, entry) for entry in entries}


def _refused(reason: str) -> ArchiveRefused:
    return ArchiveRefused([reason])


def _check_end(file: IO[bytes]) -> None:
    """Refuse what makes a reader slow or uncertain before the directory is parsed: its size, zip64 and comments."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - 20))
    tail = file.read()
    file.seek(0)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise ArchiveRefused(["The file is not a plain .zip: its end record is missing or carries a comment."])
    _, _, _, _, num_entries, directory_bytes, _, _ = _END.unpack(tail[-_END.size :])
    if tail[: -_END.size].startswith(b"PK\x06\x07") or num_entries > 16 or directory_bytes > MAX_DIRECTORY_BYTES:
        raise ArchiveRefused([f"The .zip lists {num_entries} files or more; it must hold exactly {WANTED}."])


def _problems(entries: list[zipfile.ZipInfo]) -> list[str]:
    names = [entry.filename for entry in entries]
    reasons = [reason for entry in entries if (reason := _problem(entry))]
    reasons += [f"The .zip holds {name} twice." for name in store.FILES if names.count(name) > 1]
    reasons += [f"The .zip lacks {name} at its top." for name in store.FILES if name not in names]
    total = sum(entry.file_size for entry in entries)
    if total > store.max_bytes():
        reasons.append(
            f"Unpacked, the files have {total // 2**20} MB; this site takes {store.max_bytes() // 2**20} MB."
        )
    return reasons


def _problem(entry: zipfile.ZipInfo) -> str:
    mode = entry.external_attr >> 16
    # ZipInfo cuts a name at a NUL and keeps what the archive said in orig_filename.
    if entry.filename not in store.FILES or entry.orig_filename != entry.filename:
        return f"The .zip holds {entry.orig_filename[:100]!r}; it must hold exactly {WANTED}, without a folder."
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return f"{entry.filename} is a link or another special file in the .zip; put the file itself in."
    if entry.flag_bits & 1:
        return f"{entry.filename} is encrypted; make the .zip without a password."
    if entry.compress_type not in METHODS:
        return f"{entry.filename} is packed by method {entry.compress_type}; use a plain (deflated) .zip."
    return ""


def _inflate(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterable[bytes]:
    """The bytes of `entry`, at most as many as it declares; a wrong checksum or length is refused."""
    with reading(f"{entry.filename} in the .zip", _refused):
        try:
            with archive.open(entry) as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except _BROKEN as error:
            raise _refused(f"{entry.filename} is damaged in the .zip ({error}); make it again.") from error
