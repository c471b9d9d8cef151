"""How the answer to a call with tools is read: the parser for each way of choosing."""

from __future__ import annotations

import hashlib
import json

from inference.wire.protocol import Constraint
from loraland.api.tools.asked import Tools
from loraland.api.tools.auto import Auto
from loraland.api.tools.forced import OneFunction, ToldFunctions
from loraland.api.tools.forcing import only_name, schema_of
from loraland.api.tools.pieces import Parser


def parser_of(tools: Tools) -> Parser:
    if not tools.is_forced:
        return Auto(tools.names, 1 if tools.choice == "one" else None)
    only = only_name(tools)
    return ToldFunctions() if only is None else OneFunction(only)


def constraint_of(tools: Tools) -> Constraint | None:
    """What forces the answer into calls, where it must make some."""
    return Constraint("json_schema", json.dumps(schema_of(tools))) if tools.is_forced else None


def call_id(generation: str, choice: int, index: int) -> str:
    """The id of a call: whoever comes back for the answer is told the same."""
    return "call_" + hashlib.sha256(f"{generation}.{choice}.{index}".encode()).hexdigest()[:24]
