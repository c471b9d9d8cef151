"""A claim of a paper as it was measured here: what `results/blends/NAME.json` holds and the site's page shows.

Scores are from 0 to 1, differences too; a claim whose figures are of another kind names their `unit`. What is pooled is
the mean over tasks, and its interval is of rows drawn anew within each of them: it is about these tasks.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Final, Literal

from inference.tasks.metrics import Tally, score
from tests.bench.record import machine
from tests.bench.site import REPO

FOLDER: Final = REPO / "results" / "blends"
DRAWS: Final = 2000

Interval = tuple[float, float]
Tallies = Sequence[Sequence[Tally]]
"""The rows' tallies of each task."""


@dataclass(frozen=True)
class Arm:
    """One side of an experiment: its pooled `score` over `n` rows with a 95 % interval; `loss` in nats a token of the
    answers, where it was taken, and the `bytes` of a file where these are what is compared. Where losses are compared
    the interval is of the loss, and there may be no score."""

    score: float | None
    n: int
    interval: Interval
    loss: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Comparison:
    """What `a` has more than `b` over the same rows, with its 95 % interval; `of` names the figure of the arms."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    of: str = "score"


@dataclass(frozen=True)
class Claim:
    """`paper` says the claim in its own sense; `bar` is what was set beforehand; `unit` is empty for scores."""

    title: str
    paper: str
    claim: str
    bar: str
    verdict: Literal["shown", "not shown", "refuted here"]
    arms: dict[str, Arm]
    comparisons: list[Comparison]
    command: str
    seeds: list[int]
    notes: list[str] = field(default_factory=list)
    unit: str = ""
    intervals: str = ""
    """What the intervals are, where they are not of 95 %."""
    counted: str = ""
    """What the `n` of an arm are, where they are no rows."""
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d", time.gmtime()))
    machine: str = field(default_factory=lambda: machine_name())


def write(name: str, claim: Claim, folder: Path = FOLDER) -> Path:
    """Put `claim` into its file, in one piece."""
    folder.mkdir(parents=True, exist_ok=True)
    partial, path = folder / f"{name}.partial", folder / f"{name}.json"
    text = json.dumps(dataclasses.asdict(claim), indent=1, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    return partial.replace(path)


def arm_of(tallies: Tallies, seed: int = 5, loss: float | None = None, bytes: int | None = None) -> Arm:
    """The pooled score of one side."""
    found = sorted(_mean(tallies, rows) for rows in _drawn(tallies, seed))
    return Arm(_mean(tallies), sum(map(len, tallies)), _middle(found), loss, bytes)


def compared(a: str, b: str, of: dict[str, Tallies], seed: int = 5) -> Comparison:
    """The pooled difference of two sides of `of`, whose rows are the same."""
    first, second = of[a], of[b]
    found = sorted(_mean(first, rows) - _mean(second, rows) for rows in _drawn(first, seed))
    return Comparison(a, b, _mean(first) - _mean(second), *_middle(found))


def machine_name() -> str:
    """What computed, in words."""
    about = machine()
    return f"{about['processor']}, {about['memory']}"


def _drawn(tallies: Tallies, seed: int) -> list[list[list[int]]]:
    """Rows of each task, drawn anew `DRAWS` times."""
    draw = random.Random(seed)
    return [[draw.choices(range(len(rows)), k=len(rows)) for rows in tallies] for _ in range(DRAWS)]


def _mean(tallies: Tallies, rows: Sequence[Sequence[int]] | None = None) -> float:
    some = tallies if rows is None else [[task[row] for row in of] for task, of in zip(tallies, rows, strict=True)]
    return fmean(map(score, some))


def _middle(ordered: Sequence[float]) -> Interval:
    """The middle 95 % of values in their order."""
    cut = math.floor(0.025 * len(ordered))
    return ordered[cut], ordered[-1 - cut]
