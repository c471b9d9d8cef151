"""A .zip of an adapter as people have it, at its top or in one folder, read without trusting a word of it."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Final

from inference.reading import reading
from inference.tasks.card import CARD
from loraland.catalogue import card, store

MAX_DIRECTORY_BYTES: Final = 64 * 1024
CHUNK_BYTES: Final = 1024 * 1024
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_ENTRIES: Final = 64
READ: Final = (*store.FILES, CARD)
WANTED: Final = f"{store.CONFIG} and {store.WEIGHTS}"
ALLOWED: Final = f"{WANTED}, with {CARD} and what training leaves beside them, at its top or in one folder"

_COMPANION: Final = re.compile(
    r"(README\.md|LICENSE(\.txt)?|\.gitattributes|\.DS_Store|training_args\.bin|trainer_state\.json|chat_template\.jinja"
    r"|tokenizer\.(json|model)|(tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt)"
)
"""What lies beside an adapter and is none of it: it is left in the archive, unread, and told."""
_HOUSEKEEPING: Final = "__MACOSX/"
"""A folder that one system adds to the archives that it makes."""

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


def read_archive(file: IO[bytes]) -> Contents:
    """What the archive `file` holds of an adapter: its two files, and the card if there is one.

    Raises `ArchiveRefused` with every reason; reading the chunks may raise it too, for data that is damaged.
    """
    with reading("The .zip", _refused):
        _check_end(file)
        try:
            archive = zipfile.ZipFile(file)
            entries = archive.infolist()
        except _BROKEN as error:
            raise _refused(f"The .zip is damaged ({error}); make it again.") from error
        entries = [entry for entry in entries if not entry.orig_filename.startswith(_HOUSEKEEPING)]
        home = _home(entries)
        if reasons := _problems(entries, home):
            raise ArchiveRefused(reasons)
    read = {entry.filename.removeprefix(home): entry for entry in entries if not _is_ignored(entry, home)}
    ignored = tuple(name for entry in entries if (name := entry.filename.removeprefix(home)) and name not in read)
    return Contents({name: _inflate(archive, entry) for name, entry in read.items()}, ignored)


def _home(entries: list[zipfile.ZipInfo]) -> str:
    """The folder of the adapter's config with its slash, where that is one plain folder; else empty: the top."""
    for entry in entries:
        folder, slash, name = entry.orig_filename.partition("/")
        if slash and name == store.CONFIG and folder not in ("", ".", "..") and "\\" not in folder:
            return f"{folder}/"
    return ""


def _is_ignored(entry: zipfile.ZipInfo, home: str) -> bool:
    name = entry.filename.removeprefix(home)
    return entry.filename == entry.orig_filename and (
        entry.filename == home or bool(entry.filename.startswith(home) and _COMPANION.fullmatch(name))
    )


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
    if (
        tail[: -_END.size].startswith(b"PK\x06\x07")
        or num_entries > MAX_ENTRIES
        or directory_bytes > MAX_DIRECTORY_BYTES
    ):
        raise ArchiveRefused([f"The .zip lists {num_entries} files or more; it must hold exactly {ALLOWED}."])


def _problems(entries: list[zipfile.ZipInfo], home: str) -> list[str]:
    wanted = [entry for entry in entries if not _is_ignored(entry, home)]
    names = [entry.filename.removeprefix(home) for entry in wanted]
    where = f"in its folder {home}" if home else "at its top"
    reasons = [reason for entry in wanted if (reason := _problem(entry, home))]
    reasons += [f"The .zip holds {name} twice." for name in READ if names.count(name) > 1]
    reasons += [f"The .zip lacks {name} {where}." for name in store.FILES if name not in names]
    if any(entry.filename == f"{home}{CARD}" and entry.file_size > card.MAX_CARD_BYTES for entry in wanted):
        reasons.append(f"{CARD} is larger than {card.MAX_CARD_BYTES // 1024} KB.")
    total = sum(entry.file_size for entry in wanted)
    if total > store.max_bytes():
        reasons.append(
            f"Unpacked, the files have {total // 2**20} MB; this site takes {store.max_bytes() // 2**20} MB."
        )
    return reasons


def _problem(entry: zipfile.ZipInfo, home: str) -> str:
    mode, name = entry.external_attr >> 16, entry.filename.removeprefix(home)
    # ZipInfo cuts a name at a NUL and keeps what the archive said in orig_filename.
    if name not in READ or not entry.filename.startswith(home) or entry.orig_filename != entry.filename:
        return f"The .zip holds {entry.orig_filename[:100]!r}; it must hold exactly {ALLOWED}."
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
