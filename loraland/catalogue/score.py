"""A measured score, ready to be shown: base and fine-tuned on one scale from 0 to 100."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.tasks.baseline import STYLES
from inference.tasks.metrics import words_of
from inference.tasks.verdict import UNCLEAR, VERDICTS


@dataclass(frozen=True)
class Mark:
    """Another score on the same scale, in points of 100: `kind` is its CSS class, `name` says whose it is."""

    kind: str
    name: str
    value: float


@dataclass(frozen=True)
class Score:
    """`base` and `tuned` in points of 100; `low` and `high` bound the 95 % interval of `tuned` where it is known."""

    metric: str
    base: float
    tuned: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    split: str = ""
    base_prompt: str = ""
    is_clear: bool = True
    remark: str = ""
    """Beside a gain that is not clear: what to think of it."""
    base_low: float | None = None
    base_high: float | None = None
    marks: tuple[Mark, ...] = ()

    @property
    def gain(self) -> float:
        return self.tuned - self.base

    @property
    def fell(self) -> bool:
        """Whether fine-tuning made it worse."""
        return self.gain < 0

    @property
    def may_be_chance(self) -> bool:
        return self.remark == VERDICTS[UNCLEAR]

    @property
    def metric_name(self) -> str:
        return words_of(self.metric).name

    @property
    def metric_meaning(self) -> str:
        return words_of(self.metric).meaning

    @property
    def base_asked(self) -> str:
        """How the base was asked, in words; empty where that is not known."""
        return STYLES.get(self.base_prompt, "")

    @property
    def bar(self) -> tuple[float, float]:
        """Start and length of the bar between the two points, in percent of the scale."""
        return min(self.base, self.tuned), abs(self.gain)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Start and length of the interval of `tuned`, in percent of the scale."""
        return _span(self.low, self.high)

    @property
    def base_interval(self) -> tuple[float, float] | None:
        """Start and length of the interval of `base`, in percent of the scale."""
        return _span(self.base_low, self.base_high)


def score_of(data: Mapping[str, Any]) -> Score | None:
    """The score in `data` (values from 0 to 1); None when base or tuned is missing or off that scale."""
    base, tuned = _points(data.get("base")), _points(data.get("tuned"))
    if base is None or tuned is None:
        return None
    is_clear = data.get("gain") != UNCLEAR
    return Score(
        metric=str(data.get("metric", "score")),
        base=base,
        tuned=tuned,
        low=_points(data.get("low")),
        high=_points(data.get("high")),
        n=int(data.get("n") or 0),
        split=str(data.get("split", "")),
        base_prompt=str(data.get("base_prompt", "")),
        is_clear=is_clear,
        remark="" if is_clear else str(data.get("remark") or VERDICTS[UNCLEAR]),
    )


def _span(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high - low)


def _points(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value * 100 if 0 <= value <= 1 else None
