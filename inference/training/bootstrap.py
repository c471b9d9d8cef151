"""Intervals by resampling rows (Efron's percentile bootstrap), seeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.training.metrics import Tally


def interval(tallies: Sequence[Tally], samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the score of `tallies`."""
    return _percentiles(_scores(tallies, _draws(len(tallies), samples, seed)))


def paired_interval(
    tuned: Sequence[Tally], base: Sequence[Tally], samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of score(tuned) - score(base), where row i of both answers the same question.

    Raises ValueError when the two do not have the same number of rows.
    """
    if len(tuned) != len(base):
        raise ValueError(f"paired rows are needed; there are {len(tuned)} and {len(base)}")
    draws = _draws(len(tuned), samples, seed)
    return _percentiles(_scores(tuned, draws) - _scores(base, draws))


def _draws(rows: int, samples: int, seed: int) -> NDArray[np.int64]:
    """Row numbers, [samples, rows]."""
    return np.random.default_rng(seed).integers(0, rows, size=(samples, rows))


def _scores(tallies: Sequence[Tally], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """One score a sample, [samples]."""
    earned = np.array([row.earned for row in tallies])[draws].sum(axis=1)
    possible = np.array([row.possible for row in tallies])[draws].sum(axis=1)
    scores: NDArray[np.float64] = np.divide(earned, possible, out=np.ones_like(earned), where=possible > 0)
    return scores


def _percentiles(scores: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
