"""Each metric by hand, and the intervals around their scores."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.tasks.bootstrap import interval, paired_interval
from inference.tasks.metrics import (
    Tally,
    accuracy,
    exact_match,
    f1_json,
    first_object,
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


TEXTS_OF_OTHER_SCRIPTS = [
    ("Компания основана в 1998 году", "Певец умер в 1998 году в Париже", 0.5),
    ("Сегодня хорошая погода в городе", "Сегодня хорошая погода в нашем городе", 10 / 11),
    ("他在2024年买了3个苹果", "公司于2024年裁员3千人", 0.3),
    ("今天天气很好", "今天天气很好。", 1.0),
    ("über die Straße gehen", "ber die Stra e gehen", 4 / 9),
    ("the cat sat on the mat", "the cat lay on the mat", 5 / 6),
    ("यह एक किताब है", "यह एक कलम है", 3 / 4),
    ("ÜBER DIE STRASSE", "über die Straße", 1.0),
    ("cafe\u0301 noir", "caf\u00e9 noir", 1.0),
    ("می\u200cخواهم بروم", "میخواهم بروم", 1.0),
    ("GPT4模型", "gpt4模型", 1.0),
    ("안녕하세요 세계", "안녕하세요 여러분", 0.5),
    ("สวัสดี", "สวัสดี!", 1.0),
]


@pytest.mark.parametrize(("answer", "target", "earned"), TEXTS_OF_OTHER_SCRIPTS)
def test_words_of_every_script_count_and_characters_where_there_are_no_spaces(
    answer: str, target: str, earned: float
) -> None:
    assert rouge_l(answer, target).earned == pytest.approx(earned)


ASCII = st.text(st.characters(max_codepoint=127))


@given(ASCII, ASCII)
def test_what_is_written_in_ascii_is_scored_by_runs_of_letters_and_digits(answer: str, target: str) -> None:
    ours, theirs = (re.findall("[a-z0-9]+", text.lower()) for text in (answer, target))
    common = 2 * slow_length(ours, theirs) / max(1, len(ours) + len(theirs))
    assert rouge_l(answer, target).earned == (common if ours and theirs else answer.strip() == target.strip())
    assert accuracy(answer, target).earned == (answer.strip() == target.strip())


@given(st.text())
def test_a_text_equals_itself_in_any_script(text: str) -> None:
    assert rouge_l(text, text).earned == accuracy(text, text).earned == exact_match(text, text).earned == 1


def test_labels_and_answers_are_equal_however_unicode_writes_them() -> None:
    assert accuracy("cafe\u0301", "caf\u00e9").earned == 1
    assert exact_match("cafe\u0301 noir", "caf\u00e9 noir").earned == 1
    assert score([f1_json('{"wo": "cafe\u0301"}', '{"wo": "caf\u00e9"}')]) == 1


@pytest.mark.parametrize("answer", ["٣", "３．０", "about \u2212\u0663, no: -3"])
def test_numbers_are_read_in_other_digits(answer: str) -> None:
    assert mae(answer, "3").earned == (1.0 if "-" not in answer else 0.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": {"b": [1, {"c": 2}]}} and more', '{"a": {"b": [1, {"c": 2}]}}'),
        ('Here: {"text": "use } to close", "x": 1} done', '{"text": "use } to close", "x": 1}'),
        ('```json\n{"say": "\\"}\\" she said"}\n```', '{"say": "\\"}\\" she said"}'),
        ('[{"a": 1}, {"a": 2}]', '{"a": 1}'),
        ('In {braces}: {"a": 1}', '{"a": 1}'),
        ('{"a": {"b": 1}, ', None),
        ('{"a": {"b": 1}, c} {"d": 2}', '{"d": 2}'),
        ("none", None),
        ("{" * 20_000, None),
        ('{"a":' * 20_000, None),
    ],
)
def test_the_first_whole_object_is_read_by_nesting_and_with_regard_to_quotes(text: str, found: str | None) -> None:
    assert first_object(text) == found
