"""What fine-tuning on a data set will gain, guessed from how it looks, with the error of such guesses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from django.conf import settings

from loraland.bases import Base
from loraland.evals.heuristics import Heuristics
from loraland.evals.leaderboard import Entry, entries
from loraland.evals.regression import Linear, fit, left_out, rms
from loraland.evals.results import read_file

LOGARITHMS: Final = ("input_mean", "output_mean", "rows")
SHARES: Final = ("similarity_mean", "compressibility_mean")
"""The heuristics that the model looks at: lengths and counts by their logarithm, shares as they are."""
RIDGE: Final = 2.0
FEWEST: Final = 6
"""Below so many measured tasks there is no forecast."""
Z95: Final = 1.96


@dataclass(frozen=True)
class Known:
    """A task that was measured and whose data set is known; figures in points of 100."""

    entry: Entry
    heuristics: Heuristics

    @property
    def gain(self) -> float:
        return self.entry.gain


@dataclass(frozen=True)
class Forecaster:
    """The model with what it was fitted to. `error` is its leave-one-out RMS error, `mean_error` that of the mean."""

    known: Sequence[Known]
    model: Linear
    held_out: Sequence[float]
    error: float
    mean_error: float

    @property
    def is_better_than_the_mean(self) -> bool:
        return self.error < self.mean_error


@dataclass(frozen=True)
class Forecast:
    """A gain in points with its 95 % bounds, from the leave-one-out error over `tasks` tasks."""

    gain: float
    low: float
    high: float
    error: float
    mean_error: float
    tasks: int


def described() -> dict[str, Heuristics]:
    """The heuristics of every task in `results/`."""
    files = (read_file(path) for path in sorted(settings.RESULTS_DIR.glob("*.json")))
    return {file["task"]: file["data"] for file in files if "data" in file}


def known(base: str = "") -> list[Known]:
    """Every measured adapter of a described task; those for the model named `base` alone, where one is named."""
    data = described()
    of_base = (entry for entry in entries(data) if base.lower() in ("", entry.compared.tuned.base.lower()))
    return [Known(entry, data[entry.facts.name]) for entry in of_base]


def forecaster(tasks: Sequence[Known]) -> Forecaster | None:
    """A model of the gains of `tasks`; None while there are fewer than `FEWEST`."""
    if len(tasks) < FEWEST:
        return None
    rows, gains = [features(task.heuristics) for task in tasks], [task.gain for task in tasks]
    held_out = left_out(rows, gains, RIDGE)
    others = [(sum(gains) - gain) / (len(gains) - 1) for gain in gains]
    return Forecaster(
        tasks,
        fit(rows, gains, RIDGE),
        held_out,
        rms([guess - gain for guess, gain in zip(held_out, gains, strict=True)]),
        rms([guess - gain for guess, gain in zip(others, gains, strict=True)]),
    )


def forecast(heuristics: Heuristics, base: Base) -> Forecast | None:
    """The gain to expect of a data set on `base`, from what was measured on it; where the model does no better than the
    mean gain, that mean."""
    model = forecaster(known(base.name))
    if model is None:
        return None
    gains = [task.gain for task in model.known]
    better = model.is_better_than_the_mean
    gain = model.model(features(heuristics)) if better else fmean(gains)
    error = model.error if better else model.mean_error
    gain = max(-100.0, min(100.0, gain))
    low, high = max(-100.0, gain - Z95 * error), min(100.0, gain + Z95 * error)
    return Forecast(gain, low, high, model.error, model.mean_error, len(gains))


def features(heuristics: Mapping[str, float]) -> list[float]:
    """What the model looks at."""
    return [*(math.log1p(heuristics[name]) for name in LOGARITHMS), *(heuristics[name] for name in SHARES)]
