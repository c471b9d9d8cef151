from __future__ import annotations

import math

import pytest

from loraland.catalogue.score import score_of
from loraland.catalogue.templatetags.emblems import compact, megabytes


def test_a_score_is_shown_in_points_of_a_hundred() -> None:
    score = score_of({"metric": "accuracy", "base": 0.25, "tuned": 0.75, "low": 0.7, "high": 0.8, "n": 300})
    assert score is not None
    assert (score.base, score.tuned, score.gain, score.bar) == (25, 75, 50, (25, 50))
    assert score.interval == (70, pytest.approx(10))


def test_a_loss_is_a_bar_from_the_fine_tuned_to_the_base() -> None:
    score = score_of({"base": 0.75, "tuned": 0.5})
    assert score is not None
    assert (score.gain, score.bar, score.interval) == (-25, (50, 25), None)


@pytest.mark.parametrize(
    "data",
    [{}, {"base": 0.1}, {"base": 0.1, "tuned": 81}, {"base": True, "tuned": 0.5}, {"base": "0", "tuned": math.nan}],
)
def test_a_score_off_the_scale_is_not_shown(data: dict[str, object]) -> None:
    assert score_of(data) is None


def test_a_metric_without_an_explanation_is_shown_by_its_name() -> None:
    score = score_of({"metric": "bleu_4", "base": 0.1, "tuned": 0.2})
    assert score is not None
    assert (score.metric_name, score.metric_meaning) == ("bleu 4", "")


@pytest.mark.parametrize(
    ("number", "text"), [(460, "460"), (921_600, "922 K"), (3_407_872, "3.41 M"), (7.2e9, "7.2 B")]
)
def test_counts_are_written_in_three_figures(number: int, text: str) -> None:
    assert compact(number) == text


@pytest.mark.parametrize(("number", "text"), [(921_600, "0.9 MB"), (13_631_488, "13.6 MB"), (4_800, "5 kB")])
def test_sizes_are_written_in_megabytes(number: int, text: str) -> None:
    assert megabytes(number) == text
