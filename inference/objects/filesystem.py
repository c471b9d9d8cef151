"""A store's files through fsspec, which knows S3, Google's, Azure's and a folder under one set of calls."""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from typing import Any, Final

from inference.objects.address import Address, options_of
from inference.objects.failures import StoreAway
from inference.reading import said

_OWN: Final[dict[str, dict[str, Any]]] = {
    "file": {"auto_mkdir": True},
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}},
    "gs": {},
    "az": {},
}
"""What each package is told unless the options of an address say otherwise."""


def filesystem(address: Address) -> Any:
    """The files of the store at `address`, one object for all threads of this process. Raises `StoreAway` where the
    package refuses its options."""
    return _opened(address, os.getpid())


@lru_cache(maxsize=16)
def _opened(address: Address, process: int) -> Any:
    """A process that was forked opens its own connections. What others write is seen at once: nothing is remembered of
    listings."""
    import fsspec

    options = _OWN[address.scheme] | options_of(address)
    try:
        return fsspec.filesystem(address.scheme, skip_instance_cache=True, use_listings_cache=False, **options)
    except (ImportError, TypeError, ValueError) as error:
        # An error of the options may show one of them, and those may be keys.
        words = said(error) if isinstance(error, ImportError) else "look into its options"
        raise StoreAway(f"{address.variable}={address} cannot be opened ({type(error).__name__}: {words})") from error


def write_whole(address: Address, path: str, data: bytes, replaces: bool) -> None:
    """Write an object in one step; without `replaces` only where there is none. Raises FileExistsError.

    S3, Google's and Azure's stores refuse by themselves what is there (If-None-Match); a folder does by a link.
    """
    if not address.is_local:
        filesystem(address).pipe_file(path, data, mode="overwrite" if replaces else "create")
        return
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".manifest.") as file:
        file.write(data)
        file.flush()
        whole = f"{file.name}.whole" if replaces else path
        os.link(file.name, whole)
        os.replace(whole, path)
