"""How the look of a data set goes with its scores: correlations of ours beside those that the paper prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loraland.evals.forecast import Known
from loraland.evals.heuristics import NAMES
from loraland.evals.regression import correlation
from loraland.paper.correlations import PRINTED

MEASURES: Final[dict[str, tuple[str, Callable[[Known], float]]]] = {
    "base": ("Base", lambda task: task.entry.score.base),
    "tuned": ("Fine-tuned", lambda task: task.entry.score.tuned),
    "gain": ("Gain", lambda task: task.gain),
}


@dataclass(frozen=True)
class Pair:
    """Pearson's r of one heuristic with one measure: ours and the paper's, None where there is none."""

    ours: float | None
    printed: float | None


@dataclass(frozen=True)
class Line:
    """One heuristic with its correlations, in the order of `MEASURES`."""

    name: str
    pairs: Sequence[Pair]


def lines(tasks: Sequence[Known]) -> list[Line]:
    """The correlations of every heuristic over `tasks`."""
    measures = {name: [read(task) for task in tasks] for name, (_, read) in MEASURES.items()}
    found = []
    for heuristic, label in NAMES.items():
        values = [task.heuristics[heuristic] for task in tasks]
        pairs = [Pair(correlation(values, y), PRINTED[name].get(heuristic)) for name, y in measures.items()]
        found.append(Line(label, pairs))
    return found
