"""The base gets a fair hearing: honest prompts, and its answers read with good will."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.tasks.baseline import (
    BASE_TOKENS,
    STYLES,
    ask,
    best_constant,
    best_style,
    choose_shots,
    max_tokens,
    read_answer,
    stops,
)
from inference.tasks.data import Row
from inference.tasks.metrics import Tally
from inference.tasks.recipe import load_recipe

EMOTION = load_recipe("tweet_emotion")
ROWS = [Row({"tweet": f"tweet number {n}"}, ["joy", "anger", "anger", "sadness"][n % 4]) for n in range(40)]


@pytest.mark.parametrize(
    ("task", "text", "answer"),
    [
        ("tweet_emotion", " Joy.\nTweet: more", "joy"),
        ("tweet_emotion", "The tweet shows sadness, not joy.", "sadness"),
        ("tweet_emotion", "joyful", "joyful"),
        ("glue_mrpc", "not_equivalent", "not_equivalent"),
        ("glue_mrpc", "They are equivalent", "equivalent"),
        ("mmlu", "Answer: B. It is a berry", "B"),
        ("glue_stsb", "I would say 4.5 of 5", "4.5"),
        ("snips_slots", 'Here it is:\n{"intent": "PlayMusic"}\nDone', '{"intent": "PlayMusic"}'),
        ("nl2bash", "\nls -l\n\nRequest: another", "ls -l"),
        ("code_alpaca", "def f():\n\n    return 1\n\nInstruction: another", "def f():\n\n    return 1"),
    ],
)
def test_an_answer_of_the_base_is_found_among_its_words(task: str, text: str, answer: str) -> None:
    assert read_answer(text, load_recipe(task)) == answer


@pytest.mark.parametrize("task", ["tweet_emotion", "snips_slots", "code_alpaca"])
def test_the_base_may_stop_where_it_asks_itself_a_question(task: str) -> None:
    recipe = load_recipe(task)
    (stop,) = stops(recipe)
    answer = f' {{"intent": "joy"}}{stop} more'
    assert read_answer(answer, recipe) == read_answer(answer.partition(stop)[0], recipe)


def test_four_examples_stand_before_the_question_with_their_answers() -> None:
    shots = choose_shots(ROWS, EMOTION)
    text = ask("four examples", Row({"tweet": "mine"}, "joy"), EMOTION, shots)
    assert text.count("Tweet: ") == 5
    assert text.endswith("\n\nTweet: mine\nEmotion:")
    assert {shot.target for shot in shots} == {"joy", "anger", "sadness"}


def test_a_chat_of_examples_shows_each_answer_as_the_assistants_own() -> None:
    shots = choose_shots(ROWS, EMOTION)
    turns = ask("chat of four examples", Row({"tweet": "mine"}, "joy"), EMOTION, shots)
    assert [role for role, _ in turns] == ["user", "assistant"] * 4 + ["user"]
    assert turns[0][1].startswith(EMOTION.instruction)
    assert turns[1][1] == shots[0].target
    assert turns[-1][1] == "Tweet: mine\nEmotion:"


@pytest.mark.parametrize("style", STYLES)
def test_every_style_asks_the_question_itself_last(style: str) -> None:
    asked = ask(style, Row({"tweet": "mine"}, "joy"), EMOTION, choose_shots(ROWS, EMOTION))
    assert (asked if isinstance(asked, str) else asked[-1][1]).endswith("Tweet: mine\nEmotion:")


def test_an_unknown_style_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no style 'begging'; choose one of template"):
        ask("begging", ROWS[0], EMOTION, ())


def test_the_best_constant_is_the_commonest_target_or_the_median_number() -> None:
    assert best_constant(ROWS, EMOTION) == "anger"
    numbers = [Row({"sentence1": "a", "sentence2": "b"}, target) for target in ("0.0", "2.5", "5.0", "5.0", "1.0")]
    assert best_constant(numbers, load_recipe("glue_stsb")) == "2.5"


def test_the_style_with_the_best_score_is_taken() -> None:
    assert best_style({"template": [Tally(0.2)], "instruction": [Tally(0.4)], "four examples": [Tally(0.4)]}) == (
        "instruction"
    )


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (("积极", "消极", "中性"), "这句话的情感是消极的。", "消极"),
        (("好", "不好"), "我觉得不好", "不好"),
        (("positive", "negative"), "答案是Positive。", "positive"),
        (("ดี", "ไม่ดี"), "ข้อความนี้ไม่ดี", "ไม่ดี"),
        (("अच्छ", "अच्छा"), "यह अच्छा है", "अच्छा"),
        (("положительный", "отрицательный"), "Ответ: ОТРИЦАТЕЛЬНЫЙ", "отрицательный"),
        (("freude", "große freude"), "Ich sehe GROSSE FREUDE", "große freude"),
        (("caf\u00e9", "bar"), "a cafe\u0301, no bar", "caf\u00e9"),
        (("радость", "радостный"), "радостный", "радостный"),
        (("긍정", "부정"), "부정", "부정"),
        (("猫", "犬"), "それは犬です", "犬"),
        (("A", "ßeta"), "ßßß A", "A"),
    ],
)
def test_a_label_is_found_in_any_script(labels: tuple[str, ...], text: str, label: str) -> None:
    assert read_answer(text, replace(EMOTION, labels=labels)) == label


LABELS = ("joy", "not joy", "B", "c++")


@given(st.lists(st.sampled_from([*LABELS, "JOY", "b", " ", "_", ".", "x", "1"])).map("".join))
def test_a_label_in_ascii_is_found_as_a_word_of_its_own(text: str) -> None:
    found = [
        (match.start(), -len(label), label)
        for label in LABELS
        if (match := re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.I if len(label) > 1 else 0))
    ]
    first = min(found)[2] if found else text.strip()
    assert read_answer(text, replace(EMOTION, labels=LABELS)) == (first if found else text.strip())


def test_a_nested_object_of_the_base_is_read_whole_and_has_room_to_be_written() -> None:
    recipe = load_recipe("snips_slots")
    answer = '{"name": "call", "arguments": {"city": "Paris"}}'
    assert read_answer(f"Sure:\n{answer}\nI hope that helps.", recipe) == answer
    assert max_tokens(recipe) > recipe.max_answer


def test_labels_of_other_scripts_get_more_tokens() -> None:
    assert max_tokens(EMOTION) == BASE_TOKENS
    assert max_tokens(replace(EMOTION, labels=("积极", "消极"))) > 2 * BASE_TOKENS
