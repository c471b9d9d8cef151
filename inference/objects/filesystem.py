"""A store's files through fsspec, which knows S3, Google's, Azure's and a folder under one set of calls."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from inference.objects.address import Address, options_of
from inference.objects.failures import StoreAway
from inference.reading import said

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 30
"""How long a store may say nothing; without a limit of ours some packages wait for ever."""


def filesystem(address: Address) -> Any:
    """The files of the store at `address`, one object for all threads of this process. Raises `StoreAway` where the
    package refuses its options."""
    return _opened(address, os.getpid())


@lru_cache(maxsize=16)
def _opened(address: Address, process: int) -> Any:
    """A process that was forked opens its own connections. What others write is seen at once: nothing is remembered of
    listings."""
    import fsspec

    try:
        options = own_options(address.scheme) | options_of(address)
        return fsspec.filesystem(address.scheme, skip_instance_cache=True, use_listings_cache=False, **options)
    except (ImportError, TypeError, ValueError) as error:
        # An error of the options may show one of them, and those may be keys.
        words = said(error) if isinstance(error, ImportError) else "look into its options"
        raise StoreAway(f"{address.variable}={address} cannot be opened ({type(error).__name__}: {words})") from error


def own_options(scheme: str) -> dict[str, Any]:
    """What the package of `scheme` is told unless the options of an address say otherwise. Raises ImportError."""
    if scheme == "s3":
        limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        return {"config_kwargs": {**limits, "retries": {"max_attempts": 2}}}
    if scheme == "gs":
        import aiohttp  # comes with gcsfs, which has no limit for its parts

        return {"requests_timeout": aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)}
    if scheme == "az":
        return {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
    return {"auto_mkdir": True}


def write_whole(address: Address, path: str, data: bytes, replaces: bool) -> None:
    """Write an object in one step; without `replaces` only where there is none. Raises FileExistsError.

    S3, Google's and Azure's stores refuse by themselves what is there (If-None-Match); a folder does by a link.
    """
    if not address.is_local:
        filesystem(address).pipe_file(path, data, mode="overwrite" if replaces else "create")
        return
    whole = Path(path).with_name(f".manifest.{uuid4().hex}")
    try:
        whole.write_bytes(data)  # as readable as the files beside it, which a private temporary file is not
        if replaces:
            os.replace(whole, path)
        else:
            os.link(whole, path)
    finally:
        whole.unlink(missing_ok=True)
