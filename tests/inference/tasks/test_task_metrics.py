"""Each metric by hand, and the intervals around their scores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.tasks.bootstrap import interval, paired_interval
from inference.tasks.metrics import (
    Tally,
    accuracy,
    exact_match,
    f1_json,
    longest_common_subsequence,
    mae,
    rouge_l,
    score,
)


def test_accuracy_wants_the_label_exactly_but_for_white_space() -> None:
    assert accuracy(" joy\n", "joy").earned == 1
    assert accuracy("Joy", "joy").earned == 0
    assert accuracy("joyful", "joy").earned == 0


def test_exact_match_wants_the_whole_target() -> None:
    assert exact_match("interest, money-fx", "interest, money-fx").earned == 1
    assert exact_match("interest", "interest, money-fx").earned == 0


def test_exact_match_of_a_worked_solution_compares_its_final_number_alone() -> None:
    target = "3 x 400 = 1200\n#### 1200"
    assert exact_match("another way\n#### 1,200", target).earned == 1
    assert exact_match("3 x 400 = 1200\n#### 1300", target).earned == 0
    assert exact_match("1200", target).earned == 0


@pytest.mark.parametrize(
    ("answer", "earned"), [("3.0", 1.0), ("4.0", 0.8), ("0.5", 0.5), ("about 3.0", 1.0), ("99", 0.0), ("none", 0.0)]
)
def test_mae_is_one_less_the_share_of_the_scale_that_the_number_misses_by(answer: str, earned: float) -> None:
    assert mae(answer, "3.0").earned == pytest.approx(earned)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # "the cat mat" is common: 3 of 4 words of ours, 3 of 6 of theirs.
    assert rouge_l("The big cat, mat!", "the cat sat on a mat").earned == pytest.approx(2 * 3 / (4 + 6))
    assert rouge_l("same words", "Same Words.").earned == 1
    assert rouge_l("words same", "same words").earned == 0.5
    assert rouge_l("", "same words").earned == 0


def test_f1_json_counts_pairs_and_each_item_of_a_list_as_one() -> None:
    target = '{"intent": "PlayMusic", "artist": ["a", "b"]}'
    assert score([f1_json(target, target)]) == 1
    assert score([f1_json('{"artist": ["b"], "year": "1990"}', target)]) == pytest.approx(2 * 1 / (2 + 3))


def test_f1_json_is_micro_so_rows_with_more_pairs_weigh_more() -> None:
    rows = [f1_json('{"a": ["x", "y", "z"]}', '{"a": ["x", "y", "z"]}'), f1_json('{"a": []}', '{"a": ["x"]}')]
    assert score(rows) == pytest.approx(6 / 7)


def test_f1_json_gives_no_pairs_for_what_is_not_a_json_object() -> None:
    assert score([f1_json("PlayMusic", '{"intent": "PlayMusic"}')]) == 0
    assert score([f1_json('["intent"]', '{"intent": "PlayMusic"}')]) == 0


def test_nothing_found_where_nothing_was_to_be_found_is_perfect() -> None:
    assert score([f1_json('{"chemical": []}', '{"chemical": [], "disease": []}')]) == 1


def test_an_interval_holds_the_score_and_narrows_with_more_rows() -> None:
    few, many = [Tally(1.0), Tally(0.0)] * 20, [Tally(1.0), Tally(0.0)] * 200
    low, high = interval(few)
    assert low < 0.5 < high
    assert interval(many)[1] - interval(many)[0] < high - low


def test_a_paired_interval_sees_a_steady_gain_that_separate_intervals_would_not() -> None:
    base = [Tally(float(row % 2)) for row in range(100)]
    tuned = [Tally(1.0) if row < 10 else tally for row, tally in enumerate(base)]
    assert paired_interval(tuned, base)[0] > 0
    assert interval(tuned)[0] < interval(base)[1]


def test_a_paired_interval_of_equal_answers_is_nothing() -> None:
    rows = [Tally(1.0), Tally(0.0), Tally(1.0)]
    assert paired_interval(rows, rows) == (0.0, 0.0)


def test_unpaired_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 1 and 2"):
        paired_interval([Tally(1.0)], [Tally(1.0), Tally(0.0)])


def slow_length(first: list[str], second: list[str]) -> int:
    """The table of lengths, cell by cell: what `longest_common_subsequence` must equal."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for index, other in enumerate(second, start=1):
            above = row[index]
            row[index] = diagonal + 1 if word == other else max(above, row[index - 1])
            diagonal = above
    return row[-1]


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcde"), max_size=80))
def test_the_longest_common_subsequence_is_that_of_the_whole_table(first: list[str], second: list[str]) -> None:
    assert longest_common_subsequence(first, second) == slow_length(first, second)
