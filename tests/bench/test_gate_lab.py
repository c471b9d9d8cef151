"""How the experiments with gates count: means over tasks, paired intervals, what was kept, and the bars' words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.training.examples import Encoded
from tests.bench import flow, ramole
from tests.bench.claims import Comparison
from tests.bench.gate_lab import Kept, compared, interval, pooled

LOSSES = [[(2.0, 1), (4.0, 2)], [(9.0, 3)]]


def test_a_pooled_loss_is_the_mean_over_tasks_of_the_loss_a_token() -> None:
    assert pooled(LOSSES) == pytest.approx((6 / 3 + 9 / 3) / 2)


def test_a_difference_is_taken_on_the_same_rows() -> None:
    """Every row is better by half a nat a token, whatever rows are drawn."""
    better = [[(loss - 0.5 * count, count) for loss, count in task] for task in LOSSES]
    found = compared("a", "b", better, LOSSES)
    assert (found.difference, found.low, found.high, found.of) == (-0.5, -0.5, -0.5, "loss")
    low, high = interval(LOSSES)
    assert low <= pooled(LOSSES) <= high


def test_rows_that_were_asked_before_are_not_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def make(some: Any) -> list[Any]:
        asked.append(len(some))
        return [[1.0, len(row.token_ids)] for row in some]

    rows = [Encoded((1,) * length, 0) for length in (2, 3, 4)]
    assert Kept(tmp_path / "kept.json").rows("arm", rows[:2], make) == [[1.0, 2], [1.0, 3]]
    kept = Kept(tmp_path / "kept.json")
    assert kept.rows("arm", rows, make) == [[1.0, 2], [1.0, 3], [1.0, 4]]
    assert kept.rows("arm", rows[:1], make) == [[1.0, 2]]
    assert asked == [2, 1]


def against(a: str, b: str, low: float, high: float) -> Comparison:
    return Comparison(a, b, (low + high) / 2, low, high, "loss")


@pytest.mark.parametrize(
    ("even", "first", "verdict"),
    [
        ((-0.3, -0.1), (-0.1, 0.1), "shown"),
        ((-0.3, 0.1), (-0.1, 0.1), "not shown"),
        ((-0.3, -0.1), (0.1, 0.3), "not shown"),
        ((0.1, 0.3), (-0.3, -0.1), "refuted here"),
    ],
)
def test_a_routers_verdict_follows_its_bar(even: Any, first: Any, verdict: str) -> None:
    told = [against("trained, with own", "even, with own", *even)]
    told += [against("trained, with own", "first retrieved, with own", *first)]
    assert ramole.verdict_of(told) == verdict


def test_a_flow_gate_must_beat_both_rivals_on_two_targets() -> None:
    def told(*targets: tuple[float, float]) -> list[Comparison]:
        return [
            against(f"{name}: flow", f"{name}: {rival}", *found)
            for name, found in zip("abc", targets, strict=True)
            for rival in ("trained on", "static")
        ]

    better, unclear, worse = (-0.2, -0.1), (-0.1, 0.1), (0.1, 0.2)
    assert flow.verdict_of("abc", told(better, better, worse)) == "shown"
    assert flow.verdict_of("abc", told(better, unclear, worse)) == "not shown"
    assert flow.verdict_of("abc", told(better, worse, worse)) == "refuted here"
