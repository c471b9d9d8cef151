"""What the inputs of a task look like, as a vector that is kept: `inference.tasks.vectors` makes it and compares."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from inference.tasks.card import EmbeddingTable
from inference.tasks.ngrams import BUCKETS

EMBEDDER: Final = "ngrams-1"
"""The name of all that decides a vector: whoever changes `ngrams.py`, its frozen weights or `vectors.py` changes it."""


@dataclass(frozen=True)
class Embedding:
    """The vector of a task as it is kept: BUCKETS numbers of one byte, up to a factor; `texts` inputs made it."""

    embedder: str
    texts: int
    numbers: bytes

    @property
    def is_usable(self) -> bool:
        """Whether texts can be compared with it here."""
        return self.embedder == EMBEDDER and len(self.numbers) == BUCKETS and any(self.numbers)

    def table(self) -> EmbeddingTable:
        """As a card has it."""
        return {
            "embedder": self.embedder,
            "texts": self.texts,
            "vector": base64.b64encode(self.numbers).decode("ascii"),
        }


def of_table(table: Mapping[str, Any]) -> Embedding | None:
    """The embedding in a card's `table`; None for one that another embedder made, or that is none."""
    try:
        numbers = base64.b64decode(str(table["vector"]), validate=True)
        found = Embedding(str(table["embedder"]), int(table["texts"]), numbers)
    except (KeyError, ValueError, binascii.Error):
        return None
    return found if found.is_usable else None


def bare(inputs: Mapping[str, str], fields: Iterable[str]) -> str:
    """`inputs` as a text without their template: one after the other, in the order of `fields`."""
    return "\n".join(inputs[name] for name in fields)
