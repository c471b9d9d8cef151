"""What a data set looks like, by hand, and the small model that forecasts from it."""

from __future__ import annotations

import pytest

from inference.tasks.data import Row
from inference.tasks.metrics import rouge_l
from loraland.evals.heuristics import COMPARED_CHARS, NAMES, heuristics
from loraland.evals.regression import chance, correlation, fit, left_out, solve


def test_lengths_are_counted_in_words_and_marks() -> None:
    found = heuristics([Row({"text": "one two, three"}, "yes"), Row({"text": "a", "more": "b"}, "no no no")])
    assert (found["input_mean"], found["input_sd"], found["input_p95"]) == (3.0, 1.0, 4)
    assert (found["output_mean"], found["example_mean"], found["rows"]) == (2.0, 5.0, 2)
    assert found.keys() == NAMES.keys()


def test_similarity_is_one_for_copies_and_nothing_for_strangers() -> None:
    assert heuristics([Row({"text": "the same words"}, "the same words")] * 3)["similarity_mean"] == 1.0
    assert heuristics([Row({"text": "the same words"}, "others")] * 3)["similarity_mean"] == 0.0


@pytest.mark.slow
def test_similarity_is_taken_on_the_beginnings_of_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    monkeypatch.setattr("loraland.evals.heuristics.rouge_l", lambda *texts: lengths.append(texts) or rouge_l("a", "a"))
    heuristics([Row({"text": "a " * 4100}, "b " * 4100)] * 800)
    assert len(lengths) == 400
    assert {len(text) for texts in lengths for text in texts} == {COMPARED_CHARS}


def test_repetition_compresses_better() -> None:
    plain = Row({"text": "The quick brown fox jumps over the lazy dog near a river bank"}, "x")
    repeated = Row({"text": "fox " * 15}, "x")
    assert heuristics([repeated])["compressibility_mean"] < heuristics([plain])["compressibility_mean"]


def test_without_a_penalty_a_line_is_found_exactly() -> None:
    rows = [(1.0, 5.0), (2.0, 1.0), (3.0, 4.0), (4.0, 2.0)]
    line = fit(rows, [2 * a - b + 3 for a, b in rows], ridge=0.0)
    assert line((10.0, 7.0)) == pytest.approx(2 * 10 - 7 + 3)


def test_a_penalty_draws_the_forecast_towards_the_mean() -> None:
    rows, y = [(0.0,), (1.0,), (2.0,)], [0.0, 10.0, 20.0]
    assert fit(rows, y, ridge=0.0)((2.0,)) == pytest.approx(20.0)
    assert 10 < fit(rows, y, ridge=3.0)((2.0,)) < 20


def test_a_row_left_out_is_forecast_from_the_others_alone() -> None:
    rows = [(0.0,), (1.0,), (2.0,), (3.0,)]
    assert left_out(rows, [0.0, 1.0, 2.0, 99.0], ridge=0.0)[3] == pytest.approx(3.0)


def test_equations_without_a_single_solution_are_refused() -> None:
    assert solve([[0.0, 2.0], [1.0, 0.0]], [4.0, 3.0]) == [3.0, 2.0]
    with pytest.raises(ValueError, match="no single solution"):
        solve([[1.0, 1.0], [2.0, 2.0]], [1.0, 2.0])


def test_correlation_is_one_along_a_line_and_unknown_for_a_constant() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert correlation([1, 1, 1], [1, 2, 3]) is None
    assert correlation([1, 2], [1, 2]) is None


def test_the_fewer_pairs_the_larger_a_correlation_by_chance() -> None:
    assert chance(8) == pytest.approx(0.705, abs=0.001)
    assert chance(31) == pytest.approx(0.355, abs=0.001)
    assert chance(3) == 1.0
