"""The adapters among which `auto` chooses, in the memory of a process, and how near each is to a text."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from inference.tasks.embedding import Embedding
from inference.tasks.ngrams import BUCKETS
from inference.tasks.template import opening
from inference.tasks.vectors import Seen, Vector, middle

CLOSE: Final = 1e-5
"""How far a score in float32 may lie from the true one."""

Key = TypeVar("Key", bound=Hashable)
Places = npt.NDArray[Any]
"""Places of candidates in their index, [any number] int64."""


@dataclass(frozen=True)
class Candidate:
    """An adapter that can be chosen: its published version's digest and prompt, and the key of its base."""

    slug: str
    name: str
    digest: str
    base: str
    template: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """A candidate and the cosine between what it is for and a text."""

    candidate: Candidate
    score: float


class Index:
    """`candidates` with their embeddings. It never changes; memory is 2 KB a candidate."""

    def __init__(self, candidates: Sequence[Candidate], embeddings: Sequence[Embedding]) -> None:
        self.candidates = tuple(candidates)
        rows = np.frombuffer(b"".join(each.numbers for each in embeddings), np.int8).reshape(-1, BUCKETS)
        self._columns = np.ascontiguousarray(rows.T)
        exact = rows.astype(np.float32)
        self._lengths = np.maximum(np.linalg.norm(exact, axis=1), 1e-12)
        self._at_middle = exact @ middle()
        keys = sorted({each.base for each in self.candidates})
        self._keys = {key: number for number, key in enumerate(keys)}
        self._bases = np.array([self._keys[each.base] for each in self.candidates], int)

    @cached_property
    def by_fields(self) -> dict[tuple[str, ...], Places]:
        """The candidates by the fields that they have."""
        return _grouped(each.fields for each in self.candidates)

    @cached_property
    def lone(self) -> Places:
        """The candidates with one field, which any text fills."""
        return np.array([place for place, each in enumerate(self.candidates) if len(each.fields) == 1], int)

    @cached_property
    def templates(self) -> list[tuple[str, str, Places]]:
        """Each template after the words with which it begins, with the candidates that have it and the same fields."""
        found = _grouped((each.template, each.fields) for each in self.candidates)
        return [(opening(template).lstrip(), template, places) for (template, _), places in found.items()]

    def of_bases(self, places: Places, keys: Sequence[str]) -> Places:
        """Those of `places` whose base is one of `keys`."""
        return places[np.isin(self._bases[places], [self._keys[key] for key in keys if key in self._keys])]

    def nearest(self, text: Seen, places: Places, most: int) -> list[Scored]:
        """The `most` candidates of `places` that are nearest to `text`, the nearest first; of equally near ones the
        first by slug.

        All are measured in float32, by the buckets alone that `text` has, and those that may be among the nearest once
        more in float64, as `measured` does.
        """
        if len(places) > most:
            rough = self._rough(text)[places]
            places = places[rough >= np.partition(rough, -most)[-most] - 2 * CLOSE]
        return sorted(self.measured(text.vector, places), key=lambda each: (-each.score, each.candidate.slug))[:most]

    def _rough(self, text: Seen) -> Vector:
        """How near each candidate is to `text`, in float32."""
        products: Vector = text.values @ self._columns[text.places].astype(np.float32)
        scores: Vector = (products - self._at_middle) / (self._lengths * text.distance)
        return scores

    def measured(self, text: Vector, places: Places) -> list[Scored]:
        """How near each of `places` is to the vector of a `text`, in float64; the others change no bit of it."""
        vectors = np.ascontiguousarray(self._columns[:, places].T, np.float64)
        exact = text.astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(exact)
        scores = (vectors * exact).sum(axis=1) / np.maximum(lengths, 1e-12)
        return [Scored(self.candidates[place], float(score)) for place, score in zip(places, scores, strict=True)]


def _grouped(keys: Iterable[Key]) -> dict[Key, Places]:
    """The places of equal `keys`."""
    found: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return {key: np.array(places) for key, places in found.items()}
