"""Intervals by resampling rows (Efron's percentile bootstrap), seeded, in plain Python: the site computes them too."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from inference.tasks.metrics import Tally

Interval = tuple[float, float]


def interval(tallies: Sequence[Tally], samples: int = 2000, seed: int = 0) -> Interval:
    """The 95 % interval of the score of `tallies`."""
    return _middle([_score(tallies, rows) for rows in _draws(len(tallies), samples, seed)])


def paired_interval(tuned: Sequence[Tally], base: Sequence[Tally], samples: int = 2000, seed: int = 0) -> Interval:
    """The 95 % interval of score(tuned) - score(base), where row i of both answers the same question.

    Raises ValueError when the two do not have the same number of rows.
    """
    if len(tuned) != len(base):
        raise ValueError(f"paired rows are needed; there are {len(tuned)} and {len(base)}")
    return _middle([_score(tuned, rows) - _score(base, rows) for rows in _draws(len(tuned), samples, seed)])


def _draws(count: int, samples: int, seed: int) -> Iterator[list[int]]:
    """`samples` times `count` row numbers, with repetition."""
    draw = random.Random(seed)
    return (draw.choices(range(count), k=count) for _ in range(samples))


def _score(tallies: Sequence[Tally], rows: Sequence[int]) -> float:
    possible = sum(tallies[row].possible for row in rows)
    return sum(tallies[row].earned for row in rows) / possible if possible else 1.0


def _middle(scores: list[float]) -> Interval:
    """The 2.5th and the 97.5th percentile."""
    ordered = sorted(scores)
    return _percentile(ordered, 0.025), _percentile(ordered, 0.975)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest ranks, as numpy's default does."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
