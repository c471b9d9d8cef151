"""A small linear model in plain Python: ridge regression on standardised columns, judged by leaving one row out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

Vector = Sequence[float]


@dataclass(frozen=True)
class Linear:
    """y = `intercept` + sum of `weights` × (x - `centres`) / `scales`."""

    intercept: float
    weights: tuple[float, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]

    def __call__(self, x: Vector) -> float:
        terms = zip(self.weights, x, self.centres, self.scales, strict=True)
        return self.intercept + sum(weight * (value - centre) / scale for weight, value, centre, scale in terms)


def fit(rows: Sequence[Vector], y: Vector, ridge: float) -> Linear:
    """The weights that lessen squared error + `ridge` × their squares, on columns of mean 0 and deviation 1."""
    columns = list(zip(*rows, strict=True))
    centres = tuple(map(fmean, columns))
    scales = tuple(pstdev(column) or 1.0 for column in columns)
    z = [[(value - centre) / scale for value, centre, scale in zip(row, centres, scales, strict=True)] for row in rows]
    intercept = fmean(y)
    size = len(columns)
    gram = [[sum(row[i] * row[j] for row in z) + (ridge if i == j else 0.0) for j in range(size)] for i in range(size)]
    moment = [sum(row[i] * (target - intercept) for row, target in zip(z, y, strict=True)) for i in range(size)]
    return Linear(intercept, tuple(solve(gram, moment)), centres, scales)


def left_out(rows: Sequence[Vector], y: Vector, ridge: float) -> list[float]:
    """For each row what a model forecasts that was fitted to all the others."""
    return [
        fit([*rows[:index], *rows[index + 1 :]], [*y[:index], *y[index + 1 :]], ridge)(rows[index])
        for index in range(len(rows))
    ]


def rms(errors: Vector) -> float:
    """The root of the mean square of `errors`."""
    return math.sqrt(fmean(error * error for error in errors))


def solve(matrix: Sequence[Vector], right: Vector) -> list[float]:
    """x with matrix · x = right, by Gaussian elimination with pivots. Raises ValueError for a singular matrix."""
    rows = [[*map(float, line), float(value)] for line, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda index: abs(rows[index][column]))
        if abs(rows[pivot][column]) < 1e-12:
            raise ValueError("the equations have no single solution")
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for below in range(column + 1, size):
            factor = rows[below][column] / rows[column][column]
            rows[below] = [a - factor * b for a, b in zip(rows[below], rows[column], strict=True)]
    found = [0.0] * size
    for index in reversed(range(size)):
        known = sum(rows[index][j] * found[j] for j in range(index + 1, size))
        found[index] = (rows[index][size] - known) / rows[index][index]
    return found


def correlation(x: Vector, y: Vector) -> float | None:
    """Pearson's r; None where one of the two does not vary or there are fewer than three pairs."""
    if len(x) < 3 or not pstdev(x) or not pstdev(y):
        return None
    mean_x, mean_y = fmean(x), fmean(y)
    return fmean((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / (pstdev(x) * pstdev(y))


def chance(pairs: int) -> float:
    """How large |r| must be to be more than chance at 95 %, by Fisher's transformation; 1 for too few pairs."""
    return math.tanh(1.96 / math.sqrt(pairs - 3)) if pairs > 3 else 1.0
