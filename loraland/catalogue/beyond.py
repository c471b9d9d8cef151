"""What an adapter changes beside the linears of layers, read from its stored files."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from inference.adapters.identity import HeaderError, part_of, read_header
from inference.adapters.tables import TABLES
from loraland.catalogue import store

_TRAINED: Final = ("A", "B", "rows")
"""Parts by which a table is changed; a whole one may be the base's own."""


def beyond_pairs(digest: str) -> str:
    """What the stored adapter `digest` changes beside the linears of layers, as the rest of a sentence; empty where
    that is nothing, or it is not here."""
    try:
        return _beyond_pairs(digest)
    except (OSError, HeaderError):
        return ""


@lru_cache(maxsize=4096)
def _beyond_pairs(digest: str) -> str:
    """What is stored under a digest stays as it is."""
    with store.opened(digest) as directory:
        parts = [part for name in read_header(directory / store.WEIGHTS) if (part := part_of(name))]
    tables = {module.rpartition(".")[2] for module, part in parts if part in _TRAINED} & {*TABLES}
    biases = ["biases"] if any(part in ("bias", "shift") for _, part in parts) else []
    return " and ".join([*sorted(tables), *biases])
