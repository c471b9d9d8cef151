"""Where adapter files lie: a quarantine of server-made names, and the store of proven files by digest.

A digest's directory appears whole or not at all, so a worker never reads half an adapter.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from uuid import uuid4

from django.conf import settings

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
FILES: Final = (CONFIG, WEIGHTS)

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class TooLarge(ValueError):
    """More bytes than an upload may have."""


def receive(files: Mapping[str, Iterable[bytes]]) -> str:
    """Write the chunks of `files` into a new quarantine directory and return its name.

    `files` has exactly the names in `FILES`. Raises `TooLarge` past the site's limit, and whatever reading raises;
    then nothing is left behind.
    """
    assert set(files) == set(FILES)
    token = uuid4().hex
    directory = quarantined(token)
    directory.mkdir(mode=0o700, parents=True)
    try:
        room = max_bytes()
        for name, chunks in files.items():
            room -= _write(directory / name, chunks, room)
    except BaseException:
        shutil.rmtree(directory)
        raise
    return token


def receive_directory(source: Path) -> str:
    """Copy the two files of the adapter in `source` into quarantine; raises `FileNotFoundError` or `TooLarge`."""
    return receive({name: _chunks(source / name) for name in FILES})


def max_bytes() -> int:
    return settings.MAX_UPLOAD_MB * 1024 * 1024


def quarantined(token: str) -> Path:
    assert _TOKEN.fullmatch(token)
    return settings.QUARANTINE_DIR / token


def kept(digest: str) -> Path:
    assert _DIGEST.fullmatch(digest)
    return settings.ADAPTERS_DIR / digest


def keep(token: str, digest: str) -> None:
    """Put the quarantined files `token` into the store under `digest`, in place of a damaged copy if there is one.

    The quarantine stays until `drop`, so that a crash in between loses nothing.
    """
    target = kept(digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    incoming = target.with_name(f".{token}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(mode=0o755)
    for name in FILES:
        _link(quarantined(token) / name, incoming / name)
    if target.exists():
        _set_aside(target)
    os.rename(incoming, target)


def drop(token: str) -> None:
    """Remove a quarantined upload; dropping it twice is fine."""
    if token:
        shutil.rmtree(quarantined(token), ignore_errors=True)


def remove(digest: str) -> None:
    """Remove the files of `digest` from the store."""
    if kept(digest).exists():
        _set_aside(kept(digest))


def _set_aside(directory: Path) -> None:
    """Take `directory` away in one step before its files are deleted one by one."""
    away = directory.with_name(f".{uuid4().hex}.removed")
    os.rename(directory, away)
    shutil.rmtree(away)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
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
