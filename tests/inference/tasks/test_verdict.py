"""When a gain is clear, and what is said of one that is not."""

from __future__ import annotations

import pytest

from inference.tasks.metrics import METRICS, words_of
from inference.tasks.verdict import CLEAR, UNCLEAR, remark_of, verdict_of


def test_a_gain_is_clear_when_it_is_surely_over_the_base_and_the_best_constant() -> None:
    assert verdict_of((0.01, 0.2), (0.01, 0.1)) == CLEAR
    assert verdict_of((0.0, 0.2), (0.01, 0.1)) == UNCLEAR
    assert verdict_of((0.01, 0.2), (-0.01, 0.1)) == UNCLEAR


@pytest.mark.parametrize(
    ("gain", "surely", "constant", "remark"),
    [
        (-0.1, -0.2, "yes", "lower than the base"),
        (0.1, -0.1, "yes", "no clear gain"),
        (0.1, 0.05, None, "no clear gain"),
        (0.1, 0.05, "yes", "always answering “yes” gets as much"),
        (0.1, 0.05, "y" * 41, "one answer to every row gets as much"),
        (0.1, 0.05, "", "one answer to every row gets as much"),
    ],
)
def test_a_gain_that_is_not_clear_has_its_reason(gain: float, surely: float, constant: str | None, remark: str) -> None:
    assert remark_of(UNCLEAR, gain, surely, constant) == remark
    assert remark_of(CLEAR, gain, surely, constant) == ""


def test_every_metric_has_words_also_one_that_is_only_published() -> None:
    assert words_of("rouge_l") == METRICS["rouge_l"]
    assert words_of("humaneval").name == "HumanEval"
    assert (words_of("micro_f1").name, words_of("micro_f1").meaning) == ("micro f1", "")
