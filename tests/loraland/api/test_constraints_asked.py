"""In how many ways a program may ask that its answer look like something, and what it is told when it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from inference.wire.protocol import Constraint
from loraland.api.openai.chat import ChatCompletion

HELLO = [{"role": "user", "content": "hi"}]
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
NAMED = {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON}}
SCHEMA = Constraint("json_schema", json.dumps(PERSON))


def asked(**parameters: Any) -> ChatCompletion:
    return ChatCompletion.model_validate({"model": "base", "messages": HELLO, **parameters})


def refusal(**parameters: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        asked(**parameters)
    (error,) = refused.value.errors()
    return ".".join(map(str, error["loc"])) + ": " + error["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("parameters", "constraint"),
    [
        ({"response_format": {"type": "json_object"}}, Constraint("json_object")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "p", "strict": True, "schema": PERSON},
                }
            },
            SCHEMA,
        ),
        ({"response_format": {"type": "json_object", "schema": PERSON}}, SCHEMA),
        ({"response_format": {"type": "json_object", "value": PERSON}}, SCHEMA),
        ({"response_format": {"type": "json", "value": PERSON}}, SCHEMA),
        ({"response_format": {"type": "regex", "value": "a+"}}, Constraint("regex", "a+")),
        ({"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}}, SCHEMA),
        ({"structured_outputs": {"json": json.dumps(PERSON), "regex": None}}, SCHEMA),
        ({"structured_outputs": {"json_object": True}}, Constraint("json_object")),
        ({"structured_outputs": {"choice": ["ja", "nö"]}}, Constraint("choice", '["ja", "nö"]')),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, Constraint("grammar", 'root ::= "a"')),
        ({"guided_json": PERSON}, SCHEMA),
        ({"guided_regex": "[0-9]+"}, Constraint("regex", "[0-9]+")),
        ({"guided_choice": ["a", "b"]}, Constraint("choice", '["a", "b"]')),
        ({"guided_grammar": 'start: "a"'}, Constraint("grammar", 'start: "a"')),
        ({"response_format": {"type": "text"}, "structured_outputs": {}, "guided_json": None}, None),
        ({"guided_regex": "", "guided_choice": [], "logit_bias": {}}, None),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_each_way_to_ask_comes_to_one_constraint(parameters: dict[str, Any], constraint: Constraint | None):
    assert asked(**parameters).sampling().constraint == constraint


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"response_format": {"type": "xml"}}, 'response_format: the type is "xml"; it must be text, json_object or'),
        (
            {"response_format": {"type": "json_object", "json_schema": {}}},
            "response_format: 'json_schema' is not offered beside type json_object; leave it out",
        ),
        ({"response_format": "json"}, 'response_format: it is "json"; it must be an object'),
        ({"guided_json": "{"}, "guided_json: The JSON schema is not JSON from line 1, column 2 on."),
        ({"guided_regex": "("}, "guided_regex: The regular expression cannot be used: unclosed group."),
        (
            {"response_format": {"type": "json_schema"}},
            'response_format: json_schema must be an object with a "schema"',
        ),
        (
            {"response_format": {"type": "json_object", "schema": {"not": {}}}},
            "response_format: The JSON schema uses not, which cannot be enforced here",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs: regex and choice are given"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs: 'structural_tag' is not offered"),
        ({"guided_regex": "("}, "guided_regex: The regular expression cannot be used"),
        ({"guided_choice": ["a", 3]}, "guided_choice: The list of choices must hold at least one text"),
        ({"guided_json": PERSON, "guided_regex": "a"}, ": guided_json and guided_regex are given"),
        ({"logit_bias": {"a": 1}}, 'logit_bias: "a" is no token id'),
        ({"logit_bias": {"5": 101}}, "logit_bias: token 5 has 101; it must be a number from -100 to 100"),
        ({"logit_bias": [1]}, "logit_bias: it is [1]; it must be an object"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_what_cannot_be_kept_is_refused_with_its_parameter(parameters: dict[str, Any], sentence: str):
    assert refusal(**parameters).startswith(sentence)


def test_a_bias_goes_to_the_workers_in_the_order_of_its_tokens():
    assert asked(logit_bias={"50": -100, "7": 2.5}).sampling().logit_bias == ((7, 2.5), (50, -100.0))
