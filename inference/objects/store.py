"""Folders of files in a store that many hosts reach: each is there whole or not at all, and written once.

A folder is objects named by the SHA-256 of their bytes, and a manifest behind them. Whoever writes the manifest first
has written the folder; a second writer changes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from inference.objects.address import Address
from inference.objects.download import CHUNK_BYTES, PARALLEL, download
from inference.objects.failures import Damaged, NotStored, StoreAway, ask, no_bucket
from inference.objects.filesystem import filesystem, write_whole
from inference.objects.manifest import MANIFEST, Entry, Manifest, manifest_of, parse_manifest

_FOLDER: Final = re.compile(r"[\w-][\w.-]{0,199}", re.ASCII)


class ObjectStore:
    """The folders at `address`. Everything raises `StoreAway` while the store does not answer."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._has_bucket = False

    def manifest(self, folder: str) -> Manifest | None:
        """What `folder` holds; None where it is not there, or not whole. Raises `Damaged`."""
        path = self._path(folder, MANIFEST)
        try:
            raw = ask(self.address, lambda: self._files.cat_file(path))
        except FileNotFoundError:
            self._check_bucket()
            return None
        return parse_manifest(raw, folder)

    def has(self, folder: str) -> bool:
        """Whether `folder` is there and whole, as its manifest says; what it holds is not read."""
        try:
            return self.manifest(folder) is not None
        except Damaged:
            return False

    def put(
        self, folder: str, directory: Path, names: Iterable[str], *, source: str = "", replaces: bool = False
    ) -> bool:
        """Store the files `names` of `directory` as `folder`; false, and nothing changed, where it is there already.

        With `replaces` it takes the place of what is there, which readers see whole until then. Raises OSError.
        """
        if not replaces and self.has(folder):
            return False
        manifest = manifest_of(directory, names, source)
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="upload") as pool:
            list(
                pool.map(
                    lambda entry: self._put_file(folder, entry, directory / entry.name, replaces), manifest.entries
                )
            )
        is_first = self._put_manifest(folder, manifest, replaces)
        self._clear(folder)
        return is_first

    def fetch(self, folder: str, into: Path, wanted: Callable[[str], bool] = lambda name: True) -> Manifest:
        """Have the files of `folder` whose names are `wanted` in the directory `into`, going on where it was broken
        off.

        Raises `NotStored`, `Damaged` and OSError.
        """
        manifest = self.manifest(folder)
        if manifest is None:
            raise NotStored(f"{folder} is not in the store {self.address.variable}={self.address}")
        entries = [entry for entry in manifest.entries if wanted(entry.name)]
        for entry in entries:
            self._check_size(folder, entry)
        download(entries, into, lambda entry, start, end: self._read(folder, entry, start, end))
        return manifest

    def is_sound(self, folder: str) -> bool:
        """Whether the bytes of `folder` are those of its manifest: reads all of them, and keeps none."""
        try:
            manifest = self.manifest(folder)
            return manifest is not None and all(
                self._sha256(folder, entry) == entry.sha256 for entry in manifest.entries
            )
        except Damaged:
            return False

    def remove(self, folder: str) -> None:
        """Remove `folder`, its manifest first, so that nobody finds half of it. Removing it twice is fine."""
        self._delete(self._path(folder, MANIFEST))
        for path in self._objects(folder):
            self._delete(path)
        if self.address.is_local:
            with suppress(FileNotFoundError):
                self._files.rmdir(f"{self.address.place}/{folder}")

    def folders(self) -> Iterator[str]:
        """The names of all folders, whole or not, of which a store lists a thousand at once."""
        try:
            found = ask(self.address, lambda: self._files.ls(self.address.place, detail=True))
        except FileNotFoundError:
            self._check_bucket()
            return
        for entry in found:
            name = str(entry["name"]).rstrip("/").rpartition("/")[2]
            if entry["type"] == "directory" and _FOLDER.fullmatch(name):
                yield name

    def written(self, folder: str) -> float:
        """When `folder` was written, in seconds; of one that is not whole, when it was last written to."""
        with suppress(Damaged):
            if manifest := self.manifest(folder):
                return manifest.written
        moments = [ask(self.address, lambda path=path: self._files.modified(path)) for path in self._objects(folder)]  # type: ignore[misc]
        return max((float(moment.timestamp()) for moment in moments), default=0.0)

    @property
    def _files(self) -> Any:
        return filesystem(self.address)

    def _path(self, folder: str, name: str) -> str:
        assert _FOLDER.fullmatch(folder), "names of folders are checked where they come in"
        return f"{self.address.place}/{folder}/{name}"

    def _put_file(self, folder: str, entry: Entry, source: Path, replaces: bool) -> None:
        """An object of this name has these bytes; one of another size was cut off, as a folder's may be."""
        path = self._path(folder, entry.object_name)
        if not replaces and self._size(path) == entry.size:
            return
        try:
            ask(self.address, lambda: self._files.put_file(str(source), path))
        except FileNotFoundError as error:
            self._check_bucket()
            raise StoreAway(f"{path} could not be written to {self.address.variable}") from error

    def _put_manifest(self, folder: str, manifest: Manifest, replaces: bool) -> bool:
        path = self._path(folder, MANIFEST)
        try:
            ask(self.address, lambda: write_whole(self.address, path, manifest.encoded(), replaces))
        except FileExistsError:
            return False
        return True

    def _clear(self, folder: str) -> None:
        """Remove what a writer that came second, or the folder's last state, left beside what its manifest names."""
        manifest = self.manifest(folder)
        named = {MANIFEST, *(entry.object_name for entry in manifest.entries)} if manifest else set()
        for path in self._objects(folder):
            if named and path.rpartition("/")[2] not in named:
                self._delete(path)

    def _read(self, folder: str, entry: Entry, start: int, end: int) -> bytes:
        path = self._path(folder, entry.object_name)
        try:
            found: bytes = ask(self.address, lambda: self._files.cat_file(path, start=start, end=end))
        except FileNotFoundError as error:
            raise Damaged(f"{entry.name} of {folder} is missing in the store") from error
        return found

    def _check_size(self, folder: str, entry: Entry) -> None:
        """A part of an object beyond its end is an error like any other, so its size is asked first."""
        size = self._size(self._path(folder, entry.object_name))
        if size != entry.size:
            told = "is missing" if size is None else f"has {size} bytes where {entry.size} should be"
            raise Damaged(f"{entry.name} of {folder} {told}")

    def _sha256(self, folder: str, entry: Entry) -> str:
        self._check_size(folder, entry)
        state = hashlib.sha256()
        for start in range(0, entry.size, CHUNK_BYTES):
            state.update(self._read(folder, entry, start, min(start + CHUNK_BYTES, entry.size)))
        return state.hexdigest()

    def _size(self, path: str) -> int | None:
        try:
            return int(ask(self.address, lambda: self._files.info(path))["size"])
        except FileNotFoundError:
            return None

    def _objects(self, folder: str) -> list[str]:
        place = f"{self.address.place}/{folder}"
        try:
            return [str(path) for path in ask(self.address, lambda: self._files.ls(place, detail=False))]
        except FileNotFoundError:
            return []

    def _delete(self, path: str) -> None:
        try:
            ask(self.address, lambda: self._files.rm_file(path))
        except FileNotFoundError:
            return

    def _check_bucket(self) -> None:
        """Tell a store without the folder from no store at all, which a store says with the same words."""
        if self._has_bucket or self.address.is_local:
            return
        if not ask(self.address, lambda: self._files.exists(self.address.bucket)):
            raise no_bucket(self.address)
        self._has_bucket = True
