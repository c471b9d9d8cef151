"""What goes wrong with a store: it is away, or what it holds is damaged or missing. Each is a sentence."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from inference.objects.address import Address, masked
from inference.reading import said

PAUSES: Final = [0.2, 0.8, 2.0]
"""Seconds before each further attempt; the package that reaches a store makes some of its own."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class StoreAway(OSError):
    """A store that cannot be asked now. It is the service's failure, never that of what was to be read."""


class DiskFull(OSError):
    """This host's disk lacks the room of so many bytes, `lacking`, for what is to come."""

    def __init__(self, sentence: str, directory: Path, lacking: int) -> None:
        super().__init__(errno.ENOSPC, sentence, str(directory))
        self.lacking = lacking


class Damaged(ValueError):
    """What a store holds is not what its manifest, or its digest, says; the message tells of what."""


class NotStored(LookupError):
    """A store holds no whole folder of this name."""


def ask(address: Address, call: Callable[[], T]) -> T:
    """What `call` says, asked again where it does not come through.

    Raises `StoreAway`, and as they are FileNotFoundError and FileExistsError, which are answers.
    """
    for pause in [*PAUSES, None]:
        try:
            return call()
        except (FileNotFoundError, FileExistsError):
            raise
        except PermissionError as error:
            raise StoreAway(_denied(address)) from error
        except Exception as error:
            # Each package has errors of its own; by contract whatever else is raised says that it does not answer.
            if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
                raise StoreAway(_denied(address)) from error
            if pause is None:
                raise StoreAway(_away(address, error)) from error
            log.warning("asking again store=%s error=%s", address, masked(said(error)))
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def no_bucket(address: Address) -> StoreAway:
    """What to raise where all of the store is missing."""
    what = f"the folder {address.place}" if address.is_local else f"the bucket {address.bucket}"
    return StoreAway(f"{what} of {address.variable}={address} does not exist; make it, or name another")


def _denied(address: Address) -> str:
    return (
        f"the store {address.variable}={address} denies access; it needs credentials in the environment that may list "
        f"{address.bucket}, and read, write and delete in it"
    )


def _away(address: Address, error: Exception) -> str:
    words = masked(said(error))
    return (
        f"the store {address.variable}={address} does not answer ({type(error).__name__}: {words}); try again once it "
        "does"
    )
