"""Errors say what was given, where, and what would be right, in words that no library chose."""

from __future__ import annotations

import re
from typing import Any

import pytest

from loraland.api.openai.chat import ChatCompletion
from loraland.api.openai.completion import Completion

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


@pytest.mark.parametrize(("path", "model"), [("chat/completions", ChatCompletion), ("completions", Completion)])
@pytest.mark.slow
async def test_no_field_of_any_value_is_told_in_foreign_words(http, path, model):
    plain = ASKED if model is ChatCompletion else {"model": "base", "prompt": "hi"}
    for name in [*model.model_fields, "unknown"]:
        for value in VALUES:
            answer = await http.post(f"/v1/{path}", json=plain | {name: value, "model": "no-such-model"})
            assert not FOREIGN.search(answer.json()["error"]["message"]), (name, value, answer.text)


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
