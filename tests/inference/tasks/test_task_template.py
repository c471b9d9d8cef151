"""Templates: literal placeholders, filled once."""

from __future__ import annotations

import pytest

from inference.tasks.template import TemplateError, fill, opening, placeholders


def test_fields_are_put_where_the_template_names_them() -> None:
    template = "Question: {question}\nSentence: {sentence}\nAnswered:"
    filled = fill(template, {"sentence": "Yes.", "question": "Why?"})
    assert filled == "Question: Why?\nSentence: Yes.\nAnswered:"
    assert placeholders(template) == ("question", "sentence")
    assert opening(template) == "Question: "


def test_a_value_that_looks_like_a_placeholder_stays_as_it_is() -> None:
    assert fill("{a} and {b}", {"a": "{b}", "b": "x"}) == "{b} and x"


def test_other_braces_are_text() -> None:
    assert fill('{"a": {}} {0} {field}', {"field": "x"}) == '{"a": {}} {0} x'


def test_a_missing_and_an_unknown_field_are_named() -> None:
    with pytest.raises(TemplateError, match="needs the fields tweet; missing: tweet, unknown: text"):
        fill("Tweet: {tweet}", {"text": "hello"})
