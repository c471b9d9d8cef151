"""Where adapter files lie: a quarantine of server-made names, and the store of proven files by digest.

Both are folders of this host, or are shared by hosts (`loraland.catalogue.distant`) with copies here. A digest's
directory appears whole or not at all, so a worker never reads half an adapter; what is sound there stays as it is,
whoever uploads the same weights again. The config is kept as it was read, written anew.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from django.conf import settings

from inference.adapters import config_file, examination, gate_head
from inference.adapters.config import check_config
from inference.adapters.identity import HeaderError, adapter_digest
from inference.adapters.stored import AdapterNotFound, held
from inference.reading import reading
from loraland import bases
from loraland.catalogue import distant

CONFIG: Final = examination.CONFIG
WEIGHTS: Final = examination.WEIGHTS
FILES: Final = (CONFIG, WEIGHTS)
GATE: Final = gate_head.GATE_FILE
"""What a blend comes with in their place, unless its gate follows from its parts."""
CARD: Final = "card.toml"
"""What may lie beside them in quarantine, and goes no further."""

LEFT_SECONDS: Final = 24 * 3600
"""How old an upload must be before it counts as left behind."""

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LOST: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EIO})
"""What reading a file says that is gone, or lies where the disk is broken."""

log = logging.getLogger(__name__)


class TooLarge(ValueError):
    """More bytes than an upload may have."""


def receive(files: Mapping[str, Iterable[bytes]]) -> str:
    """Write the chunks of `files` into a new quarantine directory and return its name.

    `files` has the names in `FILES`, or `GATE`, and may have `CARD`. Raises `TooLarge` past the site's limit, and
    whatever reading raises; then nothing is left behind.
    """
    assert set(files) - {CARD} in ({*FILES}, {GATE})
    token = uuid4().hex
    directory = _quarantine(token)
    directory.mkdir(mode=0o700, parents=True)
    try:
        room = max_bytes()
        for name, chunks in files.items():
            room -= _write(directory / name, chunks, room)
        distant.hand_over(token, directory)
    except BaseException:
        shutil.rmtree(directory)
        raise
    distant.drop_copies(LEFT_SECONDS)
    return token


def receive_directory(source: Path, names: Iterable[str] = FILES) -> str:
    """Copy the two files of the adapter in `source`, or those called `names`, into quarantine; raises
    `FileNotFoundError` or `TooLarge`."""
    return receive({name: _chunks(source / name) for name in names})


def rewrite_config(token: str, config: Mapping[str, object]) -> None:
    """Let the adapter in quarantine `token` have another config."""
    path = quarantined(token) / CONFIG
    half = path.with_suffix(".half")
    half.write_bytes(config_file.config_bytes(dict(config)))
    half.replace(path)
    distant.hand_over(token, path.parent)


def max_bytes() -> int:
    return settings.MAX_UPLOAD_MB * 1024 * 1024


def quarantined(token: str) -> Path:
    """Where an upload lies, brought to this host if it came in at another. Raises OSError where it cannot be."""
    place = _quarantine(token)
    if not place.is_dir():
        distant.bring_upload(token, place)
    return place


def _quarantine(token: str) -> Path:
    assert _TOKEN.fullmatch(token)
    return settings.QUARANTINE_DIR / token


def kept(digest: str) -> Path:
    """Where the files of `digest` lie on this host, if they are on it; `opened` sees to that."""
    assert _DIGEST.fullmatch(digest)
    return settings.ADAPTERS_DIR / digest


def is_kept(digest: str) -> bool:
    """Whether files are stored under `digest`; a store that cannot be asked is not said to have lost them."""
    is_distant = distant.has(digest)
    return kept(digest).exists() if is_distant is None else is_distant


@contextmanager
def opened(digest: str) -> Iterator[Path]:
    """The folder of `digest` on this host while it is read; it does not exist where nothing, or something damaged, is
    stored. Raises OSError."""
    with ExitStack() as stack:
        directory = kept(digest)
        if on_disk := distant.cache():
            with suppress(AdapterNotFound):
                directory = stack.enter_context(held(on_disk, digest))
        yield directory


def send(token: str, digest: str) -> bool:
    """Do before `alone` what of `keep` takes long where the store lies elsewhere: check what is there, or bring the
    files there. Whether damaged ones had to give way. Raises OSError."""
    if distant.adapters() is None or distant.is_sound(digest):
        return False
    return distant.send(digest, _prepare(token, kept(digest)))


def repair(token: str, digest: str) -> bool:
    """As `keep`, and reads what is stored wherever it lies."""
    return send(token, digest) if distant.adapters() else keep(token, digest)


def keep(token: str, digest: str) -> bool:
    """Make sure that sound files of `digest` are stored: those that are, else the quarantined ones `token`.

    Whether damaged files had to give way. The quarantine stays until `drop`, so that a crash in between loses nothing.
    Raises OSError, which leaves nothing half.
    """
    if distant.adapters():
        return not is_kept(digest) and send(token, digest)
    if is_sound(digest):
        return False
    target = kept(digest)
    was_there = target.exists()
    incoming = _prepare(token, target)
    try:
        if was_there:
            log.warning("the stored files of %s were damaged; an upload of the same weights repairs them", digest[:12])
            _set_aside(target)
        os.rename(incoming, target)
    except OSError:
        shutil.rmtree(incoming, ignore_errors=True)
        if not is_sound(digest):  # else another upload of these weights came first
            raise
    return was_there


def digest_in(directory: Path, config: dict[str, Any] | None = None) -> str:
    """The digest of the adapter or the gate in `directory`, of an adapter with another `config` if one is given; empty
    when it is too damaged to have one. Raises OSError."""
    if (directory / GATE).exists():
        return _gate_digest(directory / GATE)
    try:
        with reading(WEIGHTS, HeaderError, config_file.ConfigRefused):
            config = config or config_file.read_config(directory / CONFIG)
            reasons = check_config(config, bases.max_rank())[1]
            return "" if reasons else adapter_digest(config, directory / WEIGHTS)
    except (config_file.ConfigRefused, HeaderError):
        return ""


def _gate_digest(path: Path) -> str:
    try:
        with reading(path.name, HeaderError, gate_head.GateRefused):
            return gate_head.gate_digest_of(path, *gate_head.read_head(path))
    except (HeaderError, gate_head.GateRefused):
        return ""


def is_sound(digest: str) -> bool:
    """Whether the stored files of `digest` are what it names, and such as a worker loads."""
    if distant.adapters():
        return distant.is_sound(digest)
    try:
        return digest_in(kept(digest)) == digest
    except OSError as error:
        if error.errno not in _LOST:
            raise
        return False


def drop(token: str) -> None:
    """Remove a quarantined upload; dropping it twice is fine."""
    if token:
        shutil.rmtree(_quarantine(token), ignore_errors=True)
        distant.drop_upload(token)


def drop_older(seconds: float, named: Collection[str]) -> None:
    """Remove the quarantined uploads that are older than `seconds` and not among `named`."""
    before = time.time() - seconds
    for token in filter(_TOKEN.fullmatch, distant.left_uploads(before, named)):
        drop(token)
    if not settings.QUARANTINE_DIR.is_dir():
        return
    for directory in settings.QUARANTINE_DIR.iterdir():
        with suppress(FileNotFoundError):  # another process has dropped it meanwhile
            is_left = _TOKEN.fullmatch(directory.name) and directory.name not in named
            if is_left and directory.stat().st_mtime < before:
                drop(directory.name)


def remove(digest: str) -> None:
    """Remove the files of `digest` from the store."""
    if distant.adapters():
        distant.remove(digest)
    elif kept(digest).exists():
        _set_aside(kept(digest))


def _set_aside(directory: Path) -> None:
    """Take `directory` away in one step before its files are deleted one by one."""
    away = directory.with_name(f".{uuid4().hex}.removed")
    os.rename(directory, away)
    shutil.rmtree(away)


def _prepare(token: str, target: Path) -> Path:
    """A hidden folder beside `target` with the files that are to lie there."""
    incoming = target.with_name(f".{token}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        incoming.mkdir(mode=0o755, parents=True)
        if (quarantined(token) / GATE).exists():
            _link(quarantined(token) / GATE, incoming / GATE)
        else:
            _write_config(quarantined(token) / CONFIG, incoming / CONFIG)
            _link(quarantined(token) / WEIGHTS, incoming / WEIGHTS)
    except OSError:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    return incoming


def _write_config(source: Path, target: Path) -> None:
    raw = config_file.config_bytes(config_file.read_config(source))
    _write(target, [raw], len(raw))
    target.chmod(0o644)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        with source.open("rb") as read, target.open("xb") as written:
            shutil.copyfileobj(read, written)
            written.flush()
            os.fsync(written.fileno())
    target.chmod(0o644)


def _write(path: Path, chunks: Iterable[bytes], room: int) -> int:
    written = 0
    with path.open("xb") as file:
        for chunk in chunks:
            written += len(chunk)
            if written > room:
                raise TooLarge(f"the files are larger than {settings.MAX_UPLOAD_MB} MB, the limit of this site")
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return written


def _chunks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1024 * 1024):
            yield chunk
