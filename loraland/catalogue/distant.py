"""The store of adapters where ADAPTER_STORE names one elsewhere: what every host of the site reads and writes.

Below its address lie a folder for each digest, and what goes from one host to another: uploads in quarantine, rows to
train on, and trainings (`inference.server.trained`).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from django.conf import settings

from inference.adapters.stored import cache_of, files_in
from inference.objects.address import Address
from inference.objects.cache import FolderCache
from inference.objects.failures import Damaged, StoreAway
from inference.objects.handover import Handover, handover
from inference.objects.store import ObjectStore

UPLOADS: Final = "quarantine"
ROWS: Final = "datasets"

log = logging.getLogger(__name__)


def adapters() -> ObjectStore | None:
    """The store; None where it is a folder of this host."""
    return _store(settings.ADAPTER_STORE)


def uploads() -> Handover | None:
    """What is in quarantine, for the host that examines it."""
    return handover(settings.ADAPTER_STORE, UPLOADS)


def cache() -> FolderCache | None:
    """What of the store is on this host."""
    return cache_of(settings.ADAPTER_STORE, settings.ADAPTERS_DIR, settings.ADAPTER_CACHE_MB)


@lru_cache(maxsize=16)
def _store(address: Address | None) -> ObjectStore | None:
    return ObjectStore(address) if address and not address.is_local else None


def has(digest: str) -> bool | None:
    """Whether the store holds `digest`; None where it is a folder. What cannot be asked is not said to be gone."""
    if (store := adapters()) is None:
        return None
    try:
        return store.has(digest)
    except StoreAway as error:
        log.warning("not asked digest=%s error=%s", digest[:12], error)
        return True


def send(digest: str, incoming: Path) -> bool:
    """Store the folder `incoming` under `digest`, where it is not, or damaged. Whether damaged files had to give way.

    The folder becomes this host's copy. Raises OSError.
    """
    store, on_disk = adapters(), cache()
    assert store
    assert on_disk
    is_damaged = _is_damaged(store, digest)
    if is_damaged:
        log.warning("the stored files of %s were damaged; an upload of the same weights repairs them", digest[:12])
    store.put(digest, incoming, files_in(incoming), replaces=is_damaged)
    on_disk.adopt(digest, incoming)
    return is_damaged


def is_sound(digest: str) -> bool:
    """Whether the store holds what was put there: reads all of it. Raises `StoreAway`."""
    store = adapters()
    return store is not None and store.is_sound(digest)


def remove(digest: str) -> None:
    """Remove `digest` from the store, and this host's copy. A store that is away keeps it, and that is logged."""
    store, on_disk = adapters(), cache()
    assert store
    assert on_disk
    on_disk.forget(digest)
    try:
        store.remove(digest)
    except StoreAway as error:
        log.error("not removed from the store digest=%s error=%s", digest[:12], error)


def _is_damaged(store: ObjectStore, digest: str) -> bool:
    try:
        return store.manifest(digest) is not None and not store.is_sound(digest)
    except Damaged:
        return True


# uploads on their way


def hand_over(token: str, directory: Path) -> None:
    """Let other hosts have the upload in `directory`, as it is now. Raises OSError."""
    if shared := uploads():
        shared.give(token, directory, [path.name for path in directory.iterdir()])


def bring_upload(token: str, place: Path) -> None:
    """Have the upload `token` at `place`, if it came in at another host; nothing where it did not. Raises OSError."""
    try:
        if shared := uploads():
            shared.take(token, place)
    except Damaged as error:
        log.error("an upload was damaged on its way token=%s error=%s", token, error)


def drop_upload(token: str) -> None:
    if shared := uploads():
        shared.forget(token)


def left_uploads(before: float, named: Collection[str]) -> Iterator[str]:
    """Uploads from before that time to which nothing refers."""
    if shared := uploads():
        for token in shared.objects.folders():
            if token not in named and shared.objects.written(token) < before:
                yield token


def drop_copies(seconds: float) -> None:
    """Remove this host's copies of uploads that are older: what is still wanted comes again from the store."""
    if uploads() and settings.QUARANTINE_DIR.is_dir():
        for directory in settings.QUARANTINE_DIR.iterdir():
            with suppress(FileNotFoundError):  # another process has dropped it
                if directory.stat().st_mtime < time.time() - seconds:
                    shutil.rmtree(directory, ignore_errors=True)


# rows to train on


def give_rows(digest: str, names: Iterable[str]) -> None:
    """Let other hosts have the files `names` of a data set, which lie on this one. Raises OSError."""
    if shared := handover(settings.ADAPTER_STORE, ROWS):
        shared.give(digest, settings.DATASETS_DIR, names)


def bring_rows(digest: str) -> None:
    """Have the files of a data set here that came in at another host, if one did. Raises OSError."""
    try:
        if shared := handover(settings.ADAPTER_STORE, ROWS):
            shared.take(digest, settings.DATASETS_DIR)
    except Damaged as error:
        log.error("rows were damaged on their way digest=%s error=%s", digest[:12], error)
