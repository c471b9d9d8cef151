"""Fetching an adapter from the Hugging Face hub: its two files, its README, and its own chat template and tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from django.conf import settings

from loraland.catalogue import store
from loraland.catalogue.upload.companions import COMPANIONS
from loraland.catalogue.upload.layout import misses_here

REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
README: Final = "README.md"
MAX_README_BYTES: Final = 256 * 1024
REVISION: Final = re.compile(r"[0-9a-f]{40}")


class HubError(Exception):
    """An adapter that cannot be fetched; the message is a sentence."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit: its 40 hex digits, and the size in bytes of each file."""

    revision: str
    sizes: dict[str, int]


class Hub(Protocol):
    """What is asked of a hub; both methods raise `HubError`."""

    def listing(self, repository: str) -> Listing: ...

    def download(self, repository: str, revision: str, name: str, directory: Path) -> None: ...


class HuggingFaceHub:
    """The real hub, through the optional package huggingface-hub."""

    def __init__(self) -> None:
        try:
            import huggingface_hub
        except ImportError as error:
            raise HubError("Fetching from the hub needs an extra: pip install 'loraland[hub]'.") from error
        self._hub = huggingface_hub

    def listing(self, repository: str) -> Listing:
        try:
            info = self._hub.HfApi().model_info(repository, files_metadata=True)
        except Exception as error:  # its client raises errors of three libraries; each ends the import of this id
            raise HubError(f"The hub does not tell of {repository}: {error}") from error
        return Listing(info.sha or "", {file.rfilename: file.size or 0 for file in info.siblings or []})

    def download(self, repository: str, revision: str, name: str, directory: Path) -> None:
        try:
            self._hub.hf_hub_download(repository, name, revision=revision, local_dir=directory)
        except Exception as error:
            raise HubError(f"The hub does not give {name} of {repository}: {error}") from error


def fetch(hub: Hub, repository: str, directory: Path) -> None:
    """Put the two files of `repository`, pinned to one commit, into `directory`. Raises `HubError`."""
    if not REPOSITORY.fullmatch(repository):
        raise HubError(f"{repository!r} is neither a directory here nor a hub id such as owner/name.")
    listing = hub.listing(repository)
    if not REVISION.fullmatch(listing.revision):
        raise HubError(f"The hub names no commit of {repository}; try again later.")
    if any(name not in listing.sizes for name in store.FILES):
        raise HubError(" ".join(misses_here(listing.sizes, repository, "download it, and import that folder")))
    total = sum(listing.sizes[name] for name in store.FILES)
    if total > store.max_bytes():
        raise HubError(f"{repository} has {total // 2**20} MB; this site takes {settings.MAX_UPLOAD_MB} MB.")
    for name in store.FILES:
        hub.download(repository, listing.revision, name, directory)
    for name, most in COMPANIONS.items():
        if 0 < listing.sizes.get(name, 0) <= most:
            hub.download(repository, listing.revision, name, directory)


def fetch_readme(hub: Hub, repository: str, directory: Path) -> str:
    """The README of `repository`; empty where it has none, or a huge one. Raises `HubError`."""
    listing = hub.listing(repository)
    if not 0 < listing.sizes.get(README, 0) <= MAX_README_BYTES:
        return ""
    hub.download(repository, listing.revision, README, directory)
    with (directory / README).open("rb") as file:  # of which no more is taken than was announced
        return file.read(MAX_README_BYTES).decode("utf-8", "replace")
