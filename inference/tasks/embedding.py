"""What the inputs of a task look like, as a vector that a text is compared with (LoraRetriever, arXiv 2402.09997).

A text is the set of its n-grams, weighed by how rare they are; a task is the mean of its texts. Weights and the middle
of all texts are frozen in ngrams.npz, so that whether two vectors are near hangs on nothing else.
"""

from __future__ import annotations

import base64
import binascii
import random
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from inference.tasks.card import EmbeddingTable
from inference.tasks.ngrams import BUCKETS, buckets

EMBEDDER: Final = "ngrams-1"
"""The name of all that decides a vector: whoever changes `ngrams.py`, its frozen weights or this file changes it."""
MOST_TEXTS: Final = 400
"""So many inputs make the vector of a task; more did not make it better (docs/routing.md)."""
FROZEN: Final = Path(__file__).parent / "ngrams.npz"
GENERAL: Final = Path(__file__).parent / "general.toml"
_SEED: Final = 20240297

Vector = npt.NDArray[Any]
"""[BUCKETS] float32 of length 1, or all zeros."""


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

    @property
    def vector(self) -> Vector:
        return _of_length_one(np.frombuffer(self.numbers, np.int8).astype(np.float32))

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


def embedding_of(texts: Sequence[str]) -> Embedding | None:
    """The embedding of the task that has the inputs `texts`, of which some are drawn by a fixed seed where there are
    many. None for no text."""
    drawn = texts if len(texts) <= MOST_TEXTS else random.Random(_SEED).sample(texts, MOST_TEXTS)
    if not drawn:
        return None
    mean = np.mean([embed(text) for text in drawn], axis=0, dtype=np.float64)
    largest = float(np.abs(mean).max()) or 1.0
    return Embedding(EMBEDDER, len(drawn), np.rint(mean / largest * 127).astype(np.int8).tobytes())


@dataclass(frozen=True)
class Seen:
    """A text by what is in it: `values`, float32, at its `places` among the buckets, and 0 at all others. They lie
    `distance` from the middle of all texts."""

    places: Vector
    values: Vector
    distance: float

    @property
    def vector(self) -> Vector:
        found = -middle()
        found[self.places] += self.values
        return found / self.distance


def seen(text: str) -> Seen:
    weights, places = _frozen()[0], buckets(text)
    values = _of_length_one(weights[places])
    square = float(values @ values) - 2 * float(values @ middle()[places]) + float(middle() @ middle())
    return Seen(places, values, max(square, 1e-12) ** 0.5)


def embed(text: str) -> Vector:
    """Where `text` lies from the middle of all texts: [BUCKETS] float32 of length 1."""
    return seen(text).vector


def middle() -> Vector:
    """The middle of all texts: [BUCKETS] float32."""
    return _frozen()[1]


def bare(inputs: Mapping[str, str], fields: Iterable[str]) -> str:
    """`inputs` as a text without their template: one after the other, in the order of `fields`."""
    return "\n".join(inputs[name] for name in fields)


@cache
def _frozen() -> tuple[Vector, Vector]:
    """How much each bucket weighs, and the middle: [BUCKETS] float32 each."""
    with np.load(FROZEN, allow_pickle=False) as file:
        return file["weights"], file["middle"]


def _of_length_one(vector: Vector) -> Vector:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


@cache
def general() -> tuple[Vector, ...]:
    """The kinds of texts that are for a base alone, [BUCKETS] float32 each: what people ask of it in general."""
    kinds = tomllib.loads(GENERAL.read_text(encoding="utf-8"))
    return tuple(_of_length_one(np.mean([embed(text) for text in texts], axis=0)) for texts in kinds.values())
