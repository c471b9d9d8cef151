"""Texts and tasks as vectors that are compared by their cosine, as LoraRetriever does (arXiv 2402.09997).

A text is the set of its n-grams, weighed by how rare they are; a task is the mean of its texts. Weights and the middle
of all texts are frozen in ngrams.npz, so that whether two vectors are near hangs on nothing else.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from inference.tasks.embedding import EMBEDDER, Embedding
from inference.tasks.ngrams import buckets

MOST_TEXTS: Final = 400
"""So many inputs make the vector of a task; docs/routing.md has what fewer cost."""
FROZEN: Final = Path(__file__).parent / "ngrams.npz"
GENERAL: Final = Path(__file__).parent / "general.toml"
_SEED: Final = 20240297

Vector = npt.NDArray[Any]
"""[BUCKETS] float32 of length 1, or all zeros."""


def vector_of(embedding: Embedding) -> Vector:
    return _of_length_one(np.frombuffer(embedding.numbers, np.int8).astype(np.float32))


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
    weights, places = _frozen()[0], np.array(buckets(text), np.int64)
    values = _of_length_one(weights[places])
    square = float(values @ values) - 2 * float(values @ middle()[places]) + float(middle() @ middle())
    return Seen(places, values, max(square, 1e-12) ** 0.5)


def embed(text: str) -> Vector:
    """Where `text` lies from the middle of all texts: [BUCKETS] float32 of length 1."""
    return seen(text).vector


def middle() -> Vector:
    """The middle of all texts: [BUCKETS] float32."""
    return _frozen()[1]


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
