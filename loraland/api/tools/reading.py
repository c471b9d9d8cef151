"""How the answer to a call with tools is read: the parser for each way of choosing."""

from __future__ import annotations

import hashlib
import json

from inference.structured.grammar import ConstraintRefused, grammar_of
from inference.wire.protocol import Constraint
from loraland.api.errors import ApiError
from loraland.api.tools.asked import Function, Tools
from loraland.api.tools.auto import Auto
from loraland.api.tools.forced import OneFunction, ToldFunctions
from loraland.api.tools.forcing import only_name, schema_of
from loraland.api.tools.pieces import Parser


def parser_of(tools: Tools) -> Parser:
    if not tools.is_forced:
        return Auto(tools.names, 1 if tools.choice == "one" else None)
    only = only_name(tools)
    return ToldFunctions() if only is None else OneFunction(only)


def constraint_of(tools: Tools | None) -> Constraint | None:
    """What forces the answer into calls, where it must make some. Raises `ApiError` for a schema not to be kept."""
    if tools is None or not tools.is_forced:
        return None
    for function in tools.functions:
        _check(Constraint("json_schema", json.dumps(function.parameters)), function.path)
    constraint = Constraint("json_schema", json.dumps(schema_of(tools)))
    _check(constraint, "tools")
    return constraint


def of_request(tools: str, choice: str) -> Tools | None:
    """The tools as a request on the wire has them."""
    if not tools:
        return None
    given = [each["function"] for each in json.loads(tools)]
    functions = (Function(each["name"], each["description"], each["parameters"], "tools") for each in given)
    return Tools(tuple(functions), choice)


def _check(constraint: Constraint, path: str) -> None:
    try:
        grammar_of(constraint)
    except ConstraintRefused as error:
        raise ApiError(400, "invalid_value", f"{path}: {error}", path) from None


def call_id(generation: str, choice: int, index: int) -> str:
    """The id of a call: whoever comes back for the answer is told the same."""
    return "call_" + hashlib.sha256(f"{generation}.{choice}.{index}".encode()).hexdigest()[:24]
