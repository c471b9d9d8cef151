"""Templates: literal placeholders, filled once."""

from __future__ import annotations

import pytest

from inference.tasks.template import fill, opening, pieces, placeholders, unfill


def test_fields_are_put_where_the_template_names_them() -> None:
    template = "Question: {question}\nSentence: {sentence}\nAnswered:"
    filled = fill(template, {"sentence": "Yes.", "question": "Why?"})
    assert filled == "Question: Why?\nSentence: Yes.\nAnswered:"
    assert placeholders(template) == ("question", "sentence")
    assert opening(template) == "Question: "


def test_a_value_that_looks_like_a_placeholder_stays_as_it_is() -> None:
    assert fill("{a} and {b}", {"a": "{b}", "b": "x"}) == "{b} and x"


def test_a_template_comes_in_pieces_in_order() -> None:
    template = "{a}, {b}{a} {0}."
    assert list(pieces(template)) == [("a", True), (", ", False), ("b", True), ("a", True), (" {0}.", False)]
    assert "".join(text for text, _ in pieces(template, fields=())) == template
    assert [text for text, is_field in pieces(template, fields=("b",)) if is_field] == ["b"]


def test_the_opening_ends_where_a_field_stands() -> None:
    assert (opening("{a} b"), opening("a b"), opening("")) == ("", "a b", "")


def test_other_braces_are_text() -> None:
    assert fill('{"a": {}} {0} {field}', {"field": "x"}) == '{"a": {}} {0} x'


def test_a_missing_and_an_unknown_field_are_named() -> None:
    with pytest.raises(ValueError, match="needs the fields tweet; missing: tweet, unknown: text"):
        fill("Tweet: {tweet}", {"text": "hello"})


@pytest.mark.parametrize(
    ("template", "inputs"),
    [
        ("Tweet: {text}\nEmotion:", {"text": "so {happy}\ntoday"}),
        ("{a} and {b}", {"a": "x", "b": "y"}),
        ("Q: {q}\n{rest}\nA:", {"q": "why?", "rest": "1.\n2."}),
        ("{q}? Again: {q}!", {"q": "who"}),
    ],
)
def test_what_fills_a_template_is_read_out_of_it_again(template, inputs):
    assert unfill(template, f"\n{fill(template, inputs)} ") == inputs


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Tweet: {text}\nEmotion:", "Tweet: happy"),
        ("Tweet: {text}\nEmotion:", "A tweet: happy\nEmotion:"),
        ("{text}", "anything"),
        ("{a}{b}!", "ab!"),
        ("{q}? Again: {q}!", "who? Again: whom!"),
        ("Text: {text} :Text", "Text:Text"),
    ],
)
def test_a_text_that_is_no_filled_template_is_not_read_as_one(template, text):
    assert unfill(template, text) is None
