"""Files on their way from one host to another, through a part of the store that both reach."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from inference.objects.address import Address
from inference.objects.failures import NotStored, StoreAway
from inference.objects.store import ObjectStore

log = logging.getLogger(__name__)


class Handover:
    """The part called `part` of the store at `address`. Everything raises OSError, `StoreAway` among them."""

    def __init__(self, address: Address, part: str) -> None:
        self.objects = ObjectStore(address.below(part))

    def give(self, folder: str, directory: Path, names: Iterable[str]) -> None:
        """Let others have the files `names` of `directory` as `folder`, in the place of what it was."""
        self.objects.put(folder, directory, names, replaces=True)

    def take(self, folder: str, into: Path) -> bool:
        """Have the files of `folder` in the directory `into`, which appears whole if there was none. False where
        nobody has given it. Raises `Damaged`."""
        into.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{into.name}.", suffix=".partial", dir=into.parent))
        try:
            self.objects.fetch(folder, partial)
            _move(partial, into)
        except NotStored:
            return False
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return True

    def forget(self, folder: str) -> None:
        """Remove `folder`; while the store is away it stays there, and that is logged."""
        try:
            self.objects.remove(folder)
        except StoreAway as error:
            log.error("not removed from the store folder=%s error=%s", folder, error)


def handover(store: Address | None, part: str) -> Handover | None:
    """The part of `store`; None where it is a folder of this host, on which everybody finds the files."""
    return Handover(store, part) if store and not store.is_local else None


def _move(partial: Path, into: Path) -> None:
    with suppress(OSError):  # another process has brought it, or there is a directory to bring it to
        os.rename(partial, into)
        return
    for path in partial.iterdir():
        os.replace(path, into / path.name)
