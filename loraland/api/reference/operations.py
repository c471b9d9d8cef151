"""What the API takes, read from its OpenAPI schema: one operation an address, one parameter a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loraland.api.reference.words import WORDS

Schema = Mapping[str, Any]
METHODS: Final = ("get", "post")
NOTHING: Final[tuple[Any, ...]] = (None, "", [], {})


@dataclass(frozen=True)
class Parameter:
    """A field of a request. `kind` is in JSON's words; `default` is empty where none is set."""

    name: str
    kind: str
    default: str = ""
    about: str = ""
    is_required: bool = False


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    about: str
    parameters: tuple[Parameter, ...]


def operations(api: Schema) -> list[Operation]:
    """All that `api` (an OpenAPI document) offers, in its order."""
    components = api.get("components", {}).get("schemas", {})
    return [
        Operation(method.upper(), path, _about(found), tuple(_parameters(found, components)))
        for path, methods in api["paths"].items()
        for method, found in methods.items()
        if method in METHODS
    ]


def _about(operation: Schema) -> str:
    return str(operation.get("description") or operation.get("summary") or "")


def _parameters(operation: Schema, components: Schema) -> Iterator[Parameter]:
    for told in operation.get("parameters", ()):
        yield _parameter(told["name"], told["schema"], told.get("required", False), components)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    shape = _resolved(body, components)
    for name, schema in shape.get("properties", {}).items():
        yield _parameter(name, schema, name in shape.get("required", ()), components)


def _parameter(name: str, schema: Schema, is_required: bool, components: Schema) -> Parameter:
    default = schema.get("default")
    return Parameter(
        name,
        _kind(schema, components),
        "" if default in NOTHING else _told(default),
        WORDS.get(name) or str(schema.get("description", "")),
        is_required,
    )


def _told(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(schema: Schema, components: Schema) -> str:
    """The type in words: `a or b` for either, `list of a`, or the values of a choice."""
    if "$ref" in schema:
        return (
            "object"
            if "properties" in _resolved(schema, components)
            else _kind(_resolved(schema, components), components)
        )
    if either := schema.get("anyOf") or schema.get("oneOf"):
        kinds = dict.fromkeys(_kind(one, components) for one in either if one.get("type") != "null")
        return " or ".join(kinds)
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return " or ".join(map(_told, values))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), components)}"
    return str(schema.get("type", "any")) + _range(schema)


def _range(schema: Schema) -> str:
    low, high = (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )
    if low is None or high is None or abs(high) > 10**6:
        return ""
    return f", {low:g} to {high:g}"


def _resolved(schema: Schema, components: Schema) -> Schema:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    return components.get(name, {}) if name else schema
