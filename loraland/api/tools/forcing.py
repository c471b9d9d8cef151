"""A forced call as a JSON schema: of one function's arguments, of one call, or of a list of calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loraland.api.tools.asked import Function, Tools


def schema_of(tools: Tools) -> dict[str, Any]:
    """The schema that an answer must follow which has to call one of `tools`. Raises AssertionError where it need not.

    An answer by one function alone consists of the arguments; else each call tells the name first.
    """
    assert tools.is_forced
    if (only := only_name(tools)) is not None:
        return dict(next(function.parameters for function in tools.functions if function.name == only))
    calls = [_call(function) for function in tools.functions]
    call = calls[0] if len(calls) == 1 else {"anyOf": calls}
    schema = {"type": "array", "items": call, "minItems": 1} if tools.choice == "parallel" else call
    return schema | {
        "$defs": {function.name: rooted(function.parameters, function.name) for function in tools.functions}
    }


def only_name(tools: Tools) -> str | None:
    """The one function that a forced answer can call, once; None where it has to say which."""
    if tools.choice.startswith("="):
        return tools.choice[1:]
    return tools.functions[0].name if tools.choice == "required" and len(tools.functions) == 1 else None


def rooted(schema: Any, name: str) -> Any:
    """`schema` with its references to itself, for its place among the definitions of another."""
    if isinstance(schema, list):
        return [rooted(item, name) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {key: _reference(value, name) if key == "$ref" else rooted(value, name) for key, value in schema.items()}


def _reference(value: Any, name: str) -> Any:
    is_own = isinstance(value, str) and value.startswith("#")
    return f"#/$defs/{name}{value[1:]}" if is_own else rooted(value, name)


def _call(function: Function) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": {"$ref": f"#/$defs/{function.name}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
