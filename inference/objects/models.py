"""Base models in a store, each a folder by its name: what a worker's host gets where it has none on its disk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from inference.objects.address import Address
from inference.objects.manifest import NAME
from inference.objects.store import ObjectStore
from inference.reading import Refused

WEIGHTS: Final = (".safetensors", ".gguf")
"""How the files end without which a base can be described, but not computed with."""


class ModelStore:
    """The base models at `address`. Everything raises `StoreAway` while it does not answer."""

    def __init__(self, address: Address) -> None:
        self._objects = ObjectStore(address)
        self._named = f"{address.variable}={address}"

    def has(self, name: str) -> bool:
        return self._objects.has(_checked(name))

    def bring(self, name: str, into: Path, *, with_weights: bool = True) -> str:
        """Have the files of the model `name` in `into`, where some may be, whole or in part, and no others; where it
        came from, as its publisher said. Raises `NotStored`, `Damaged` and OSError."""

        def is_wanted(file: str) -> bool:
            return with_weights or not file.endswith(WEIGHTS)

        manifest = self._objects.fetch(_checked(name), into, is_wanted)
        # What was broken off may have been of another publication, or of more files.
        named = {entry.name for entry in manifest.entries if is_wanted(entry.name)}
        for path in into.iterdir():
            if path.name not in named:
                path.unlink()
        return manifest.source

    def publish(self, name: str, directory: Path, source: str, replaces: bool = False) -> bool:
        """Store the files in `directory` as the model `name`, and say that it came from `source`. False where it is
        there already; with `replaces` it takes its place. Folders and hidden files are left out. Raises OSError."""
        names = [path.name for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")]
        return self._objects.put(_checked(name), directory, names, source=source, replaces=replaces)

    def __str__(self) -> str:
        return self._named


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise Refused(f"a model in a store is called by letters, digits, dots and dashes; rename the folder of {name}")
    return name
