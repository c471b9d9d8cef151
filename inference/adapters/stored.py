"""A folder of the store: the files of an adapter, or of a gate, under their digest; and how one comes onto this host.

No torch is needed, so the site keeps and reads its folders by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

from inference.adapters.config_file import ConfigRefused, read_config
from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.gate_head import GATE_FILE, GateRefused, gate_digest_of, read_head
from inference.adapters.identity import HeaderError, adapter_digest
from inference.objects.address import Address
from inference.objects.cache import FolderCache
from inference.objects.failures import Damaged, NotStored
from inference.objects.store import ObjectStore
from inference.reading import reading

FILES: Final = (CONFIG, WEIGHTS)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class AdapterNotFound(LookupError):
    """No adapter, or no gate, as `what` says, of this `digest` lies in the store."""

    def __init__(self, digest: str, sentence: str, what: str = "adapter") -> None:
        super().__init__(sentence)
        self.digest, self.what = digest, what


class AdapterDamaged(AdapterNotFound):
    """What the store holds under the digest is something else."""


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def files_in(directory: Path) -> tuple[str, ...]:
    """The names of what is stored of the adapter or the gate in `directory`; what was made of them on a host stays."""
    return (GATE_FILE,) if (directory / GATE_FILE).exists() else FILES


def digest_of(directory: Path) -> str:
    """The digest of the adapter or the gate in `directory`; empty when it is too damaged for one. Raises OSError."""
    try:
        with reading(directory.name, HeaderError, ConfigRefused, GateRefused):
            if (directory / GATE_FILE).exists():
                return gate_digest_of(directory / GATE_FILE, *read_head(directory / GATE_FILE))
            return adapter_digest(read_config(directory / CONFIG), directory / WEIGHTS)
    except (HeaderError, ConfigRefused, GateRefused):
        return ""


def bring_proven(objects: ObjectStore) -> Callable[[str, Path], None]:
    """What writes the folder of a digest from `objects` into a directory; its files are proved to be what they are
    called. Raises as `ObjectStore.fetch` does."""

    def bring(digest: str, into: Path) -> None:
        objects.fetch(digest, into)
        if digest_of(into) != digest:
            raise Damaged(f"the files under {digest[:12]}… have another digest")

    return bring


@lru_cache(maxsize=16)
def cache_of(store: Address | None, directory: Path, max_mb: int) -> FolderCache | None:
    """Where the folders of `store` come to on this host, one object for all of this process; None where the store is
    a folder, which is read as it is."""
    if store is None or store.is_local:
        return None
    return FolderCache(directory, max_mb * 1024**2, bring_proven(ObjectStore(store)))


@contextmanager
def held(cache: FolderCache, digest: str) -> Iterator[Path]:
    """The folder of `digest` on this host, which stays while it is held.

    Raises `AdapterNotFound`, `AdapterDamaged` and OSError, `StoreAway` among them.
    """
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(cache.held(checked(digest)))
        except NotStored as error:
            raise AdapterNotFound(digest, f"no adapter {digest[:12]}… is stored; import it again") from error
        except Damaged as error:
            told = f"what is stored as {digest[:12]}… is damaged: {error}; import it again, which repairs it"
            raise AdapterDamaged(digest, told) from error
        yield directory


def checked(digest: str) -> str:
    """`digest`, which may become a path. Raises `AdapterNotFound` where it is none."""
    if not is_digest(digest):
        sentence = f"{digest[:80]!r} is no adapter digest; one is 64 hexadecimal digits in lower case"
        raise AdapterNotFound(digest, sentence)
    return digest
