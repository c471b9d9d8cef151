"""Rows of the hub's data sets: how their columns become ours, and which rows are drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from inference.tasks.data import DataError, Row
from inference.tasks.hub import Hub, HubError, parse_hub
from inference.tasks.hub_rows import MAX_CHARACTERS, MAX_TEST, as_row, choose
from inference.tasks.recipe import load_recipe

SENTIMENT = Hub("a/b", {"text": "{sentence}"}, "label", labels=("negative", "positive"))

SHIPPED: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "arc_combined": (
        {"question": "What?", "choices": {"text": ["this", "that"], "label": ["1", "2"]}, "answerKey": "2"},
        {"question": "What?", "choices": "A. this\nB. that"},
        "B",
    ),
    "bc5cdr": (
        {
            "tokens": ["Acute", "renal", "failure", "after", "ibuprofen", "and", "ibuprofen"],
            "tags": [2, 3, 3, 0, 1, 0, 1],
        },
        {"text": "Acute renal failure after ibuprofen and ibuprofen"},
        json.dumps({"chemical": ["ibuprofen"], "disease": ["Acute renal failure"]}),
    ),
    "boolq": (
        {"passage": "Bees fly.", "question": "do bees fly", "answer": True},
        {"passage": "Bees fly.", "question": "do bees fly"},
        "yes",
    ),
    "conllpp": (
        {"tokens": ["Ann", "Lee", "Oslo", "visited"], "ner_tags": [1, 2, 5, 0]},
        {"text": "Ann Lee Oslo visited"},
        json.dumps({"person": ["Ann Lee"], "organization": [], "location": ["Oslo"], "miscellaneous": []}),
    ),
    "dbpedia": ({"label": 9, "title": "Emu", "content": " A bird."}, {"text": "A bird."}, "Animal"),
    "glue_stsb": (
        {"sentence1": "a", "sentence2": "b", "label": 3.799999952316284},
        {"sentence1": "a", "sentence2": "b"},
        "3.8",
    ),
    "gsm8k": (
        {"question": "Half of 8?", "answer": "8/2=<<8/2=4>>4\n#### 4"},
        {"question": "Half of 8?"},
        "8/2=4\n#### 4",
    ),
    "hellaswag": (
        {
            "activity_label": "Tea",
            "ctx": "How to brew [title] Boil.",
            "endings": ["Pour.", "[step] Sleep."],
            "label": "1",
        },
        {"context": "Tea: How to brew Boil.", "endings": "1. Pour.\n2. Sleep."},
        "2",
    ),
    "hellaswag_processed": (
        {"activity_label": "Tea", "ctx": "She", "endings": ["pours.", "sleeps."], "label": "0"},
        {"context": "Tea: She"},
        "pours.",
    ),
    "mmlu": (
        {"subject": "high_school_physics", "question": "Unit?", "choices": ["N", "J"], "answer": 1},
        {"subject": "high school physics", "question": "Unit?", "choices": "A. N\nB. J"},
        "B",
    ),
    "snli": (
        {"premise": "A dog runs.", "hypothesis": "A dog sleeps.", "label": 2},
        {"premise": "A dog runs.", "hypothesis": "A dog sleeps."},
        "contradiction",
    ),
}


def row(text: str, target: str = "positive") -> Row:
    return Row({"text": text}, target)


@pytest.mark.parametrize("task", SHIPPED)
def test_a_row_of_the_hub_becomes_a_row_of_the_recipe(task: str) -> None:
    raw, inputs, target = SHIPPED[task]
    hub = load_recipe(task).hub
    assert hub
    assert as_row(raw, hub) == Row(inputs, target)


@pytest.mark.parametrize(
    "raw",
    [
        {"sentence": "fine", "label": -1},
        {"sentence": "fine", "label": None},
        {"sentence": "  ", "label": 1},
        {"sentence": "x" * (MAX_CHARACTERS + 1), "label": 1},
        {"sentence": "broken \ufffd", "label": 1},
    ],
)
def test_a_row_without_answer_or_question_or_too_long_or_broken_is_left_out(raw: dict[str, Any]) -> None:
    assert as_row(raw, SENTIMENT) is None
    assert as_row({"sentence": "fine", "label": 1}, SENTIMENT) == row("fine")


def test_a_column_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(DataError, match="a/b has no column 'sentence'; it has text, label"):
        as_row({"text": "fine", "label": 1}, SENTIMENT)


def test_braces_in_a_column_are_not_read_as_a_column() -> None:
    found = as_row({"sentence": "{label}", "label": 0}, SENTIMENT)
    assert found == row("{label}", "negative")


def test_no_tested_question_is_learned_whatever_its_case_and_marks() -> None:
    train, test = choose([row("Good film!"), row("bad film")], [row("good film"), row("GOOD FILM", "negative")])
    assert train == [row("bad film")]
    assert len(test) == 1


def test_without_a_test_part_rows_that_share_their_first_input_stay_together() -> None:
    rows = [Row({"task": f"task {n % 50}", "input": str(n)}, str(n)) for n in range(200)]
    train, test = choose(rows, None)
    assert {row.inputs["task"] for row in train}.isdisjoint(row.inputs["task"] for row in test)
    assert (len(train), len(test)) == (160, 40)


def test_the_same_rows_are_drawn_every_time_and_never_too_many() -> None:
    rows, tested = [row(f"film {n}") for n in range(500)], [row(f"play {n}") for n in range(500)]
    assert choose(rows, tested) == choose(rows, tested)
    assert len(choose(rows, tested)[1]) == MAX_TEST


def test_a_reading_that_is_not_known_is_refused() -> None:
    with pytest.raises(HubError, match="reading = 'backwards' is not known; known are endings"):
        parse_hub({"id": "a/b", "inputs": {}, "target": "label", "reading": "backwards"})
    with pytest.raises(HubError, match="test must be a list of strings"):
        parse_hub({"id": "a/b", "inputs": {}, "target": "label", "test": "validation"})


def test_labels_are_for_whole_numbers_alone() -> None:
    assert as_row({"sentence": "fine", "label": "great"}, replace(SENTIMENT, labels=("a",))) == row("fine", "great")
