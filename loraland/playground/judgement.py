"""What an answer is worth against the words that were expected of it, by the metric of its task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, Literal

from inference.tasks.metrics import METRICS, Tally
from loraland.catalogue.models import AdapterVersion

MOST_CHARS: Final = 4000
"""Longer texts are not judged: comparing words takes the product of their numbers."""
MOST_MARKED: Final = 300
"""Words on either side, up to which those that differ are marked."""


@dataclass(frozen=True)
class Expectation:
    """The words that were expected, and the metric that says how near an answer comes to them."""

    words: str
    metric: str


@dataclass(frozen=True)
class Piece:
    """A run of words: in both texts, expected and missing, or not expected."""

    kind: Literal["same", "missing", "extra"]
    text: str


@dataclass(frozen=True)
class Judgement:
    """`points` of 100; `pieces` are empty for an answer of full marks and for one too long to be marked."""

    metric: str
    points: int
    pieces: tuple[Piece, ...] = ()

    @property
    def state(self) -> Literal["yes", "partly", "no"]:
        return "yes" if self.points == 100 else "partly" if self.points else "no"

    @property
    def words(self) -> str:
        if METRICS[self.metric].is_whole:
            return "As expected" if self.points == 100 else "Not as expected"
        return f"{self.points} of 100 by {METRICS[self.metric].name}"

    @property
    def meaning(self) -> str:
        return METRICS[self.metric].meaning


def metric_of(version: AdapterVersion | None) -> str:
    """The metric that `version` was measured by; exact match where it was not."""
    metric = str(version.score.get("metric", "")) if version else ""
    return metric if metric in METRICS else "exact_match"


def judge(answer: str, expectation: Expectation | None) -> Judgement | None:
    """None where nothing was expected, a text is too long, or the metric cannot read what was expected."""
    if expectation is None or not expectation.words or max(len(answer), len(expectation.words)) > MOST_CHARS:
        return None
    try:
        tally = METRICS[expectation.metric](answer, expectation.words)
    except ValueError:  # closeness to what is no number
        return None
    points = _points(tally)
    return Judgement(expectation.metric, points, () if points == 100 else _pieces(answer, expectation.words))


def _points(tally: Tally) -> int:
    """Rounded, but 100 is for full marks alone, and 0 for nothing."""
    share = tally.earned / tally.possible if tally.possible else 1.0
    return round(100 * share) if share in (0.0, 1.0) else min(99, max(1, round(100 * share)))


def _pieces(answer: str, expected: str) -> tuple[Piece, ...]:
    ours, theirs = answer.split(), expected.split()
    if max(len(ours), len(theirs)) > MOST_MARKED:
        return ()
    return tuple(_runs(ours, theirs))


def _runs(ours: list[str], theirs: list[str]) -> Iterator[Piece]:
    """What is missing stands behind what stands in its place."""
    for kind, start, end, first, last in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            yield Piece("same", " ".join(ours[start:end]))
            continue
        if end > start:
            yield Piece("extra", " ".join(ours[start:end]))
        if last > first:
            yield Piece("missing", " ".join(theirs[first:last]))
