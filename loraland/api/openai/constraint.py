"""What an answer must look like, in each way in which programs ask for it: OpenAI's, LoRAX's, vLLM's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from inference.structured.grammar import ConstraintRefused, grammar_of
from inference.wire.protocol import Constraint

NO_VALUE: Final[tuple[Any, ...]] = (None, "", {}, [])
"""Values that ask for nothing."""
LARGEST_BIAS: Final = 100
_OF_VLLM: Final = {
    "json": "json_schema",
    "json_object": "json_object",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
}
_KEYS: Final[Mapping[Any, tuple[str, ...]]] = {
    "text": (),
    "json_schema": ("json_schema", "strict"),
    "json_object": ("schema", "value", "strict"),
    "json": ("schema", "value", "strict"),
    "regex": ("value", "regex"),
    "grammar": ("value", "grammar"),
}
_HINTS: Final = ("backend", "disable_fallback", "disable_any_whitespace", "disable_additional_properties")
"""What vLLM takes beside a constraint, none of which loosens it here."""


def of_schema(schema: Any) -> Constraint:
    """The constraint to answer with JSON of `schema`. Raises `ConstraintRefused` for one that cannot be kept."""
    return checked(Constraint("json_schema", json.dumps(schema, ensure_ascii=False)))


def checked(constraint: Constraint) -> Constraint:
    """`constraint`, which can be kept. Raises `ConstraintRefused`."""
    grammar_of(constraint)
    return constraint


def of_response_format(given: Any) -> Constraint | None:
    """OpenAI's ``{"type": "json_schema", "json_schema": {"name", "schema"}}``, LoRAX's ``{"type": "json_object",
    "schema"}``, TGI's ``{"type": "json", "value"}``, and what asks for nothing."""
    if given in NO_VALUE or given == {"type": "text"}:
        return None
    if not isinstance(given, dict):
        raise ConstraintRefused(f'it is {_short(given)}; it must be an object such as {{"type": "json_object"}}')
    kind = given.get("type")
    keys = _KEYS.get(kind) if isinstance(kind, str) else None
    if keys is not None and (unknown := [key for key in given if key not in ("type", *keys)]):
        raise ConstraintRefused(f"{unknown[0]!r} is not offered beside type {kind}; leave it out")
    if kind == "json_schema":
        return of_schema(_schema_in(given.get("json_schema")))
    if kind in ("json_object", "json"):  # with a schema as LoRAX (schema) and TGI (value) have it
        schema = given.get("schema", given.get("value"))
        return checked(Constraint("json_object")) if schema is None else of_schema(schema)
    if kind in ("regex", "grammar"):  # as TGI and Fireworks have them
        return of_text(kind, given.get("value", given.get(kind)))
    raise ConstraintRefused(f"the type is {_short(kind)}; it must be text, json_object or json_schema")


def of_structured_outputs(given: Any) -> Constraint | None:
    """vLLM's ``{"json" | "json_object" | "regex" | "choice" | "grammar": …}``, of which one is given."""
    if given in NO_VALUE:
        return None
    if not isinstance(given, dict):
        raise ConstraintRefused(f"it is {_short(given)}; it must be an object with one of {', '.join(_OF_VLLM)}")
    asked = {name: value for name, value in given.items() if name not in _HINTS and value not in (None, False)}
    if unknown := [name for name in asked if name not in _OF_VLLM]:
        raise ConstraintRefused(f"{unknown[0]!r} is not offered; there are {', '.join(_OF_VLLM)}")
    if len(asked) > 1:
        raise ConstraintRefused(f"{' and '.join(asked)} are given; an answer keeps to one of them")
    return next((of_text(_OF_VLLM[name], value) for name, value in asked.items()), None)


def of_text(kind: str, value: Any) -> Constraint | None:
    """The value of one of vLLM's fields: a schema, as an object or as text; a list of choices; or a text."""
    if value in NO_VALUE and kind != "json_schema":
        return None
    if kind == "json_object":
        return checked(Constraint("json_object"))
    if kind == "json_schema":
        if value in (None, ""):
            return None
        return checked(Constraint("json_schema", value)) if isinstance(value, str) else of_schema(value)
    if kind == "choice":
        return checked(Constraint("choice", json.dumps(value, ensure_ascii=False)))
    if not isinstance(value, str):
        raise ConstraintRefused(f"it is {_short(value)}; it must be a text")
    return checked(Constraint(kind, value))  # type: ignore[arg-type]


def the_one(**given: Constraint | None) -> Constraint | None:
    """The constraint that is given, by the name of its parameter. Raises ValueError where there are several."""
    found = {name: constraint for name, constraint in given.items() if constraint is not None}
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} are given; an answer keeps to one of them")
    return next(iter(found.values()), None)


def bias_of(given: Any) -> tuple[tuple[int, float], ...]:
    """OpenAI's ``{"504": -100}`` as pairs, in the order of the tokens."""
    if given in NO_VALUE:
        return ()
    if not isinstance(given, Mapping):
        raise ValueError(f'it is {_short(given)}; it must be an object such as {{"504": -100}}')
    return tuple(sorted(_bias(*item) for item in given.items()))


def _bias(token_id: Any, bias: Any) -> tuple[int, float]:
    if not (isinstance(token_id, str) and token_id.isascii() and token_id.isdigit() and len(token_id) < 10):
        raise ValueError(f"{_short(token_id)} is no token id; ids are whole numbers")
    is_number = isinstance(bias, int | float) and not isinstance(bias, bool) and math.isfinite(bias)
    if not is_number or abs(bias) > LARGEST_BIAS:
        raise ValueError(f"token {token_id} has {_short(bias)}; it must be a number from -100 to 100")
    return int(token_id), float(bias)


def _schema_in(given: Any) -> Any:
    if not isinstance(given, dict) or "schema" not in given:
        raise ConstraintRefused('json_schema must be an object with a "schema", as {"name": "answer", "schema": {…}}')
    return given["schema"] if given["schema"] is not None else {}


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]


ResponseFormat = Annotated[Any, BeforeValidator(of_response_format)]
StructuredOutputs = Annotated[Any, BeforeValidator(of_structured_outputs)]
GuidedJson = Annotated[Any, BeforeValidator(lambda value: of_text("json_schema", value))]
GuidedRegex = Annotated[Any, BeforeValidator(lambda value: of_text("regex", value))]
GuidedChoice = Annotated[Any, BeforeValidator(lambda value: of_text("choice", value))]
GuidedGrammar = Annotated[Any, BeforeValidator(lambda value: of_text("grammar", value))]
LogitBias = Annotated[Any, BeforeValidator(bias_of)]
