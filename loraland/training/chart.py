"""The loss of a training as the points of a drawing: every step, and the smoothed line that the eye follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 1000
HEIGHT: Final = 300
"""The grid of the drawing, which is stretched to the place that it has."""
MOST_POINTS: Final = 400
SMOOTHING: Final = 0.1
"""The share of a new step in the smoothed line: an exponential mean, without its bias towards the first steps."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """`raw` and `smooth` are the points of two polylines, `marks` the grid: a label and its height in percent."""

    raw: str
    smooth: str
    marks: list[tuple[str, float]]
    last_x: float
    last_y: float
    step: int
    loss: float


def chart(losses: Sequence[Sequence[float]], steps: int) -> Chart | None:
    """The drawing of `losses` ([step, loss in nats a token]) over all `steps`; None before the first."""
    points = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    if not points:
        return None
    top = _top(max(loss for _, loss in points))
    smooth = _smoothed(points)
    step, loss = smooth[-1]
    marks = [(f"{top * share:g}", 100 * (1 - share)) for share in (1.0, 0.5, 0.0)]
    x, y = _place((step, loss), steps, top)
    return Chart(
        _drawn(points, steps, top),
        _drawn(smooth, steps, top),
        marks,
        100 * x / WIDTH,
        100 * y / HEIGHT,
        int(points[-1][0]),
        loss,
    )


def _smoothed(points: Sequence[Point]) -> list[Point]:
    found, mean, weight = [], 0.0, 0.0
    for step, loss in points:
        mean = (1 - SMOOTHING) * mean + SMOOTHING * loss
        weight = (1 - SMOOTHING) * weight + SMOOTHING
        found.append((step, mean / weight))
    return found


def _drawn(points: Sequence[Point], steps: int, top: float) -> str:
    stride = -(-len(points) // MOST_POINTS)
    kept = [*points[:-1:stride], points[-1]]
    return " ".join("{:.1f},{:.1f}".format(*_place(point, steps, top)) for point in kept)


def _place(point: Point, steps: int, top: float) -> Point:
    step, loss = point
    return WIDTH * step / max(1, steps), HEIGHT * (1 - min(loss, top) / top)


def _top(highest: float) -> float:
    """The next of 1, 2, 4, 6, 8 times a power of ten above `highest`, so that its half is a round number too."""
    power = 10.0 ** math.floor(math.log10(max(highest, 1e-6)))
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= highest)
