"""How near adapters are to a text: the fast way beside all cosines in float64."""

from __future__ import annotations

import numpy as np
import pytest

from inference.tasks.embedding import EMBEDDER, Embedding
from inference.tasks.ngrams import BUCKETS
from inference.tasks.vectors import Seen, seen, vector_of
from loraland.catalogue.routing.index import Candidate, Index

RANDOM = np.random.default_rng(7)


def candidate(slug: str, base: str = "one") -> Candidate:
    return Candidate(slug, slug.title(), slug * 8, base, "{text}!", ("text",))


def drawn() -> Embedding:
    return Embedding(EMBEDDER, 1, RANDOM.integers(-127, 128, BUCKETS, np.int8).tobytes())


def text() -> Seen:
    """A text of letters that were drawn."""
    return seen("".join(RANDOM.choice(list("abcdef ,.AB\n"), RANDOM.integers(1, 400))))


def by_brute_force(index: Index, asked: Seen) -> list[str]:
    scored = index.measured(asked.vector, np.arange(len(index.candidates)))
    return [each.candidate.slug for each in sorted(scored, key=lambda each: (-each.score, each.candidate.slug))]


def test_the_nearest_are_those_of_all_cosines_in_float64():
    index = Index([candidate(f"a{number:04}") for number in range(700)], [drawn() for _ in range(700)])
    for asked in (text() for _ in range(20)):
        found = [each.candidate.slug for each in index.nearest(asked, np.arange(700), 4)]
        assert found == by_brute_force(index, asked)[:4]


def test_equally_near_ones_come_by_slug_however_many_they_are():
    twin = drawn()
    slugs = ["d", "b", "a", "c", "e", "f"]
    index = Index([candidate(slug) for slug in slugs], [twin] * 6)
    assert [each.candidate.slug for each in index.nearest(text(), np.arange(6), 3)] == ["a", "b", "c"]


def test_one_more_adapter_changes_no_choice_but_towards_it():
    few = [drawn() for _ in range(40)]
    names = [candidate(f"a{number}") for number in range(40)]
    before, after = Index(names, few), Index([*names, candidate("new")], [*few, drawn()])
    for asked in (text() for _ in range(40)):
        old = before.nearest(asked, np.arange(40), 3)
        new = [each for each in after.nearest(asked, np.arange(41), 4) if each.candidate.slug != "new"]
        assert new[:3] == old


def test_other_bases_are_left_out_and_their_scores_with_them():
    index = Index([candidate("a"), candidate("b", "two"), candidate("c", "two")], [drawn() for _ in range(3)])
    places = index.of_bases(index.lone, ["two"])
    assert {each.candidate.slug for each in index.nearest(text(), places, 9)} == {"b", "c"}


def test_nobody_is_nearest_where_there_is_nobody():
    assert Index([], []).nearest(text(), np.arange(0), 3) == []


def test_scores_are_cosines():
    one, asked = drawn(), text()
    index = Index([candidate("a")], [one])
    [found] = index.nearest(asked, index.lone, 1)
    assert found.score == pytest.approx(float(vector_of(one) @ asked.vector), abs=1e-6)
