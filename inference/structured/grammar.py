"""What an answer must look like, as a grammar of llguidance, and what is wrong with one in words.

No torch: the site asks here before it takes a request, the worker before it answers one.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, Final

from llguidance import LLMatcher, LLParserLimits, grammar_from

from inference.wire.protocol import Constraint

MAX_CHARS: Final = 200_000
"""The longest text of a constraint."""
LIMITS: Final = LLParserLimits(verbose_errors=False)
WHITESPACE: Final = r"(\x20|\x0A\x20{0,16})?"
"""Between the parts of JSON: nothing, a space, or a new line with its indent. Without a bound a small model that is
kept from what it would say goes on writing spaces for ever."""
NAMES: Final = {
    "json_object": "A JSON object",
    "json_schema": "The JSON schema",
    "regex": "The regular expression",
    "choice": "The list of choices",
    "grammar": "The grammar",
}
_ERROR: Final = "error: "
"""Begins the line of what is wrong with a regular expression, below a drawing of the place."""
_UNKNOWN_KEYS: Final = re.compile(r"Unimplemented keys: (\[.*\])")


class ConstraintRefused(ValueError):
    """A constraint that cannot be kept; the text is one sentence."""


def grammar_of(constraint: Constraint) -> str:
    """The grammar of `constraint`, checked. Raises `ConstraintRefused`."""
    if constraint.kind not in NAMES:
        raise ConstraintRefused(f"{constraint.kind!r} is no kind of constraint; there are {', '.join(NAMES)}.")
    if len(constraint.text) > MAX_CHARS:
        raise ConstraintRefused(
            f"{NAMES[constraint.kind]} has {len(constraint.text)} characters; at most {MAX_CHARS} are read."
        )
    return _checked(constraint)


@lru_cache(maxsize=256)
def _checked(constraint: Constraint) -> str:
    grammar = _written(constraint)
    is_wrong, told = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    if is_wrong or told:
        raise ConstraintRefused(_explained(constraint, " ".join(told)))
    return grammar


def _written(constraint: Constraint) -> str:
    match constraint.kind:
        case "json_object":
            return _of_schema({"type": "object"})
        case "json_schema":
            return _of_schema(_read(constraint))
        case "choice":
            return _of_choices(_read(constraint))
        case "regex":
            return LLMatcher.grammar_from_regex(constraint.text)
    try:
        return grammar_from("grammar", constraint.text)
    except ValueError as error:
        raise ConstraintRefused(_explained(constraint, str(error))) from error


def _read(constraint: Constraint) -> Any:
    try:
        return json.loads(constraint.text)
    except (ValueError, RecursionError) as error:
        place = f" from line {error.lineno}, column {error.colno} on" if isinstance(error, json.JSONDecodeError) else ""
        raise ConstraintRefused(f"{NAMES[constraint.kind]} is not JSON{place}.") from error


def _of_schema(schema: Any) -> str:
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ConstraintRefused(f"The JSON schema is {json.dumps(schema)[:80]}; it must be an object such as {{}}.")
    return LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": WHITESPACE})


def _of_choices(choices: Any) -> str:
    are_texts = isinstance(choices, list) and choices and all(isinstance(one, str) and one for one in choices)
    if not are_texts:
        raise ConstraintRefused("The list of choices must hold at least one text, and none that is empty.")
    return grammar_from("choice", json.dumps(choices))


def _explained(constraint: Constraint, told: str) -> str:
    """The sentence for what the library says."""
    name = NAMES[constraint.kind]
    if unknown := _UNKNOWN_KEYS.search(told):
        keys = ", ".join(sorted(json.loads(unknown.group(1))))
        return f"{name} uses {keys}, which cannot be enforced here; leave it out or say it with other keywords."
    if "oneOf" in told:
        return f"{name} has a oneOf whose cases overlap, which cannot be enforced here; write anyOf."
    lines = [line.strip() for line in told.splitlines() if line.strip(" ^|")]
    if "regex parse error:" in told and (plain := [line for line in lines if line.startswith(_ERROR)]):
        return f"{name} cannot be used: {plain[0].removeprefix(_ERROR).strip()}."
    return f"{name} cannot be used: {'; '.join(lines)[:400].rstrip('.')}."
