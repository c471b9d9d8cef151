"""Errors say what was given, where, and what would be right, in words that no library chose."""

from __future__ import annotations

import re
from typing import Any

import pydantic
import pytest

from loraland.api import errors
from loraland.api.openai.chat import ChatCompletion
from loraland.api.openai.completion import Completion
from loraland.refusal import Refused

ASKED = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
FOREIGN = re.compile(r"Input should|constrained|type=|Extra inputs|valid (string|list|dict|integer)|pydantic|None|True")
VALUES: list[Any] = [3, -7, 1e30, 0.5, True, "x", "", [], [[]], [{}], {}, {"x": 1}, "y" * 600, 10**30, [None]]
ERRORS = [
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "messages.0.content.0.text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]}, "messages.0.content.0.x"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "pope", "content": "a"}]}, "messages.0.role"),
    ({"stop": 5}, "stop"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"stop": ["a", 5]}, "stop.1"),
    ({"stop": "x" * 501}, "stop"),
]


@pytest.mark.parametrize(("change", "param"), ERRORS, ids=str)
async def test_an_error_names_the_place_of_the_value(http, change, param):
    error = (await http.post("/v1/chat/completions", json=ASKED | change)).json()["error"]
    assert error["param"] == param
    assert not FOREIGN.search(error["message"])


async def test_a_parameter_of_two_forms_names_both(http):
    error = (await http.post("/v1/chat/completions", json=ASKED | {"stop": 5})).json()["error"]
    assert error["message"] == "stop is 5; give a text or a list."


async def test_images_are_told_that_they_are_not_read(http):
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    change = {"messages": [{"role": "user", "content": parts}]}
    error = (await http.post("/v1/chat/completions", json=ASKED | change)).json()["error"]
    assert "images are not read here" in error["message"]


BODIES = {"chat/completions": (ChatCompletion, ASKED), "completions": (Completion, {"model": "base", "prompt": "hi"})}


def told(path: str, name: str, value: Any) -> tuple[dict[str, Any], str]:
    """A body with `value` under `name`, and what is told of it before its model is looked for; empty for nothing."""
    model, plain = BODIES[path]
    body = plain | {name: value, "model": "no-such-model"}
    try:
        asked = model.model_validate(body)
        if isinstance(asked, ChatCompletion):
            asked.calls()
    except pydantic.ValidationError as error:
        found = [dict(each) for each in error.errors(include_url=False)]
        return body, errors.of_misfit(errors.Misfit(found, body)).message
    except (Refused, errors.ApiError) as error:
        return body, errors.api_error(error, path).message
    return body, ""


@pytest.mark.parametrize("path", BODIES)
def test_no_field_of_any_value_is_told_in_foreign_words(path):
    for name in [*BODIES[path][0].model_fields, "unknown"]:
        for value in VALUES:
            _, sentence = told(path, name, value)
            assert not FOREIGN.search(sentence), (name, value, sentence)


@pytest.mark.parametrize("path", BODIES)
async def test_the_address_tells_the_same_of_every_field(http, path):
    for number, name in enumerate([*BODIES[path][0].model_fields, "unknown"]):
        body, sentence = told(path, name, VALUES[number % len(VALUES)])
        answer = await http.post(f"/v1/{path}", json=body)
        expected = sentence or "No adapter called 'no-such-model' is published; choose another."
        assert answer.json()["error"]["message"] == expected, body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"model=base", "in braces"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b"[]", "give an object"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"model": "a", "model": "b"}', "twice"),
        (b"[" * 100_000, "nested"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "digits"),
        (b"", "no body"),
    ],
    ids=["cut", "form", "latin", "list", "nan", "twice", "deep", "digits", "empty"],
)
async def test_a_body_that_cannot_be_read_says_why(http, body, words):
    answer = await http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
