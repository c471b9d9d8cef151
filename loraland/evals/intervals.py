"""Values with their intervals on one scale, as lengths in percent for a small chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ROOM: Final = 0.04
"""Of the scale's width, left free at both of its ends."""


@dataclass(frozen=True)
class Interval:
    """A value between two bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scale:
    """From where to where a chart reaches."""

    low: float
    high: float

    @property
    def digits(self) -> int:
        """Behind the point, of which three figures tell the ends apart."""
        return max(0, min(3, 2 - math.floor(math.log10(self.high - self.low))))

    @property
    def zero(self) -> float | None:
        """Where 0 stands, in percent; None where it is beyond an end."""
        return self.place(0.0) if self.low <= 0 <= self.high else None

    @property
    def ends(self) -> tuple[str, str]:
        return self.words(self.low), self.words(self.high)

    def place(self, value: float) -> float:
        """Where `value` stands, in percent of the width."""
        return 100 * (value - self.low) / (self.high - self.low)

    def words(self, value: float) -> str:
        return f"{value:,.{self.digits}f}".replace("-", "−")


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, its interval on the chart's scale, and what else is said `beside` it."""

    name: str
    interval: Interval
    scale: Scale
    beside: str = ""

    @property
    def at(self) -> float:
        return self.scale.place(self.interval.value)

    @property
    def starts(self) -> float:
        return self.scale.place(self.interval.low)

    @property
    def width(self) -> float:
        return self.scale.place(self.interval.high) - self.starts

    @property
    def has_interval(self) -> bool:
        return self.interval.high > self.interval.low

    @property
    def is_clear(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.interval.low > 0 or self.interval.high < 0

    @property
    def words(self) -> str:
        """The value and its interval."""
        value, low, high = (
            self.scale.words(each) for each in (self.interval.value, self.interval.low, self.interval.high)
        )
        return f"{value} ({low} to {high})" if self.has_interval else value


def scale_of(intervals: Sequence[Interval], most: float | None = None) -> Scale:
    """A scale on which all of `intervals` stand, which are between 0 and `most` where that is given."""
    low = min((each.low for each in intervals), default=0.0)
    high = max((each.high for each in intervals), default=1.0)
    room = ROOM * (high - low) or 1.0
    if most is not None and low >= 0 and high <= most:
        return Scale(max(0.0, low - room), min(most, high + room))
    return Scale(low - room, high + room)
