"""A .zip of an adapter as people have it, at its top or in a folder, read without trusting a word of it."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Final

from inference.reading import reading
from inference.tasks.card import CARD
from loraland.catalogue import card, store
from loraland.catalogue.upload.companions import COMPANIONS
from loraland.catalogue.upload.layout import home_of, misses

MAX_DIRECTORY_BYTES: Final = 256 * 1024
CHUNK_BYTES: Final = 1024 * 1024
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_ENTRIES: Final = 1000
READ: Final = (*store.FILES, store.GATE, CARD)
_HOUSEKEEPING: Final = re.compile(r"(?:.*/)?(?:__MACOSX/.*|\.DS_Store|\._[^/]*|Thumbs\.db|desktop\.ini)", re.DOTALL)
"""What systems add to the archives that they make; of these nothing is told."""
_OUTSIDE: Final = re.compile(r"/|[A-Za-z]:|(?:.*/)?\.\.(?:/|$)", re.DOTALL)
"""A name that leaves the folder into which an archive is unpacked."""
_PACKINGS: Final = (
    (0, b"\x1f\x8b", "a .gz, as .tar.gz has it"),
    (257, b"ustar", "a .tar"),
    (0, b"BZh", "a .bz2"),
    (0, b"\xfd7zXZ", "an .xz"),
    (0, b"\x28\xb5\x2f\xfd", "a .zst"),
    (0, b"7z\xbc\xaf", "a .7z"),
    (0, b"Rar!", "a .rar"),
)

_END: Final = struct.Struct("<4s4H2LH")
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, struct.error)
"""What damage is known to raise; all else is a reason too (`inference.reading`)."""


class ArchiveRefused(ValueError):
    """An archive that is not exactly an adapter; `reasons` are sentences."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Contents:
    """The files that are read, by their bare names, in chunks; and the names of those that nobody needs."""

    files: Mapping[str, Iterable[bytes]]
    ignored: tuple[str, ...] = ()
    companions: Mapping[str, bytes] = field(default_factory=dict)
    """Of those, what `companions` compares with the base's."""


def read_archive(file: IO[bytes], wanted: Sequence[str] = store.FILES) -> Contents:
    """What the archive `file` holds of an adapter: its two files, or those that are `wanted`, and the card if there is
    one.

    Raises `ArchiveRefused` with every reason; reading the chunks may raise it too, for data that is damaged.
    """
    with reading("The .zip", _refused):
        _check_end(file)
        try:
            archive = zipfile.ZipFile(file)
            entries = archive.infolist()
        except _BROKEN as error:
            raise _refused(f"The .zip is damaged ({error}); make it again.") from error
        named = {entry.orig_filename: entry.orig_filename.replace("\\", "/") for entry in entries}
        files = [entry for entry in entries if not _is_left_out(named[entry.orig_filename])]
        home = home_of(map(named.__getitem__, (entry.orig_filename for entry in files)), wanted)
        if reasons := _names(files, named):
            raise ArchiveRefused(reasons)
        if home is None:
            raise ArchiveRefused(misses((named[entry.orig_filename] for entry in files), "The .zip", wanted))
        read = [entry for entry in files if named[entry.orig_filename] in {home + name for name in (*wanted, CARD)}]
        if reasons := _problems(read):
            raise ArchiveRefused(reasons)
    ignored = [named[entry.orig_filename].removeprefix(home) for entry in files if entry not in read]
    return Contents(
        {_bare(entry): _inflate(archive, entry) for entry in read}, tuple(ignored), _beside(archive, files, home)
    )


def _beside(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], home: str) -> dict[str, bytes]:
    """What lies beside the adapter and can be compared; a damaged one is no reason to refuse what is read."""
    found = {}
    for entry in entries:
        is_one = entry.orig_filename.replace("\\", "/") in {home + name for name in COMPANIONS}
        if is_one and entry.file_size <= COMPANIONS[_bare(entry)] and not _problem(entry):
            with suppress(ArchiveRefused):
                found[_bare(entry)] = b"".join(_inflate(archive, entry))
    return found


def _is_left_out(name: str) -> bool:
    return (name.endswith("/") and not _OUTSIDE.match(name)) or bool(_HOUSEKEEPING.fullmatch(name))


def _names(entries: list[zipfile.ZipInfo], named: Mapping[str, str]) -> list[str]:
    """A name that is not what it seems: of whatever file it is, the archive was made to deceive."""
    reasons = []
    for entry in entries:
        given = entry.orig_filename
        # ZipInfo cuts a name at a NUL and keeps what the archive said in orig_filename.
        if _OUTSIDE.match(named[given]) or "\0" in given:
            reasons.append(f"The .zip holds {given[:100]!r}; every name must be plain and stay inside its folder.")
    return reasons[:10]


def _bare(entry: zipfile.ZipInfo) -> str:
    return entry.orig_filename.replace("\\", "/").rpartition("/")[2]


def _refused(reason: str) -> ArchiveRefused:
    return ArchiveRefused([reason])


def _check_end(file: IO[bytes]) -> None:
    """Refuse what makes a reader slow or uncertain before the directory is parsed: its size, zip64 and comments."""
    head = file.read(300)
    for place, magic, kind in _PACKINGS:
        if head[place:].startswith(magic):
            raise ArchiveRefused([f"The file is {kind}, whatever its name says; pack the adapter's folder as a .zip."])
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - 20))
    tail = file.read()
    file.seek(0)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise ArchiveRefused(["The file is not a plain .zip: its end record is missing or carries a comment."])
    _, _, _, _, num_entries, directory_bytes, _, _ = _END.unpack(tail[-_END.size :])
    if (
        tail[: -_END.size].startswith(b"PK\x06\x07")
        or num_entries > MAX_ENTRIES
        or directory_bytes > MAX_DIRECTORY_BYTES
    ):
        raise ArchiveRefused(
            [
                f"The .zip lists {num_entries} files or more, and at most {MAX_ENTRIES} are looked at; "
                "pack the adapter's folder only."
            ]
        )


def _problems(entries: list[zipfile.ZipInfo]) -> list[str]:
    names = [_bare(entry) for entry in entries]
    reasons = [reason for entry in entries if (reason := _problem(entry))]
    reasons += [f"The .zip holds {name} twice." for name in READ if names.count(name) > 1]
    if any(_bare(entry) == CARD and entry.file_size > card.MAX_CARD_BYTES for entry in entries):
        reasons.append(f"{CARD} is larger than {card.MAX_CARD_BYTES // 1024} KB.")
    total = sum(entry.file_size for entry in entries)
    if total > store.max_bytes():
        reasons.append(
            f"Unpacked, the files have {total // 2**20} MB; this site takes {store.max_bytes() // 2**20} MB."
        )
    return reasons


def _problem(entry: zipfile.ZipInfo) -> str:
    mode, name = entry.external_attr >> 16, _bare(entry)
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return f"{name} is a link or another special file in the .zip; put the file itself in."
    if entry.flag_bits & 1:
        return f"{name} is encrypted; make the .zip without a password."
    if entry.compress_type not in METHODS:
        return f"{name} is packed by method {entry.compress_type}; use a plain (deflated) .zip."
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
