"""What an answer must look like: constraints that can be kept, and sentences for those that cannot."""

from __future__ import annotations

import json

import pytest

from inference.structured.grammar import MAX_CHARS, ConstraintRefused, grammar_of
from inference.wire.protocol import Constraint


def of_schema(schema: object) -> Constraint:
    return Constraint("json_schema", json.dumps(schema))


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("json_object"),
        of_schema({}),
        of_schema(True),
        of_schema({"type": ["string", "null"], "description": "words", "default": "", "x-order": 1}),
        of_schema({"$defs": {"a": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/a"}}),
        of_schema({"oneOf": [{"type": "string"}, {"type": "integer"}]}),
        of_schema({"enum": ["größer", 3, None, {"a": [1]}]}),
        Constraint("regex", r"\d{3}-[a-z]+"),
        Constraint("choice", json.dumps(["yes", 'no"', "日本", "two\nlines"])),
        Constraint("grammar", 'start: "a" /[0-9]+/'),
        Constraint("grammar", 'root ::= "yes" | "no" [0-9]+'),
    ],
    ids=lambda constraint: constraint.text[:30] or constraint.kind,
)
def test_a_constraint_that_can_be_kept_is_a_grammar(constraint: Constraint):
    assert grammar_of(constraint)


@pytest.mark.parametrize(
    ("constraint", "sentence"),
    [
        (of_schema({"not": {}}), "The JSON schema uses not, which cannot be enforced here"),
        (of_schema({"type": "array", "uniqueItems": True, "contains": {}}), "uses contains, uniqueItems, which cannot"),
        (of_schema({"oneOf": [{"type": "string"}, {"maxLength": 3, "type": "string"}]}), "write anyOf"),
        (of_schema({"type": "strin"}), "The JSON schema cannot be used: Invalid type: strin."),
        (of_schema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum (5) is greater than maximum (3)"),
        (of_schema({"$ref": "#/nowhere"}), "Pointer '/nowhere' does not exist"),
        (of_schema([1]), "The JSON schema is [1]; it must be an object such as {}."),
        (Constraint("json_schema", "{"), "The JSON schema is not JSON"),
        (Constraint("regex", "(a"), "The regular expression cannot be used"),
        (Constraint("regex", "(?=a)b"), "look-around"),
        (Constraint("choice", "[]"), "at least one text"),
        (Constraint("choice", '["a", ""]'), "none that is empty"),
        (Constraint("grammar", 'start: "a" | foo'), 'unknown name: "foo"'),
        (Constraint("regex", "a" * (MAX_CHARS + 1)), f"at most {MAX_CHARS} are read"),
    ],
    ids=lambda given: given.text[:30] if isinstance(given, Constraint) else "",
)
def test_one_that_cannot_is_refused_with_what_is_wrong(constraint: Constraint, sentence: str):
    with pytest.raises(ConstraintRefused) as refused:
        grammar_of(constraint)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
