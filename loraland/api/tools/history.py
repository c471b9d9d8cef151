"""Earlier calls and what they brought, as a conversation tells them: read, and refused by name."""

from __future__ import annotations

import json
from typing import Any

from loraland.api.tools.asked import NAME, NAMES, shown, wrong


def calls_of(given: Any, path: str) -> str:
    """The calls of an assistant's message, in JSON as the wire has them; empty where there are none."""
    if not given:
        return ""
    if not isinstance(given, list):
        raise wrong(path, f"{shown(given)} is no list of calls")
    return json.dumps([_call(call, f"{path}.{number}") for number, call in enumerate(given)], ensure_ascii=False)


def one_call(id: Any, name: Any, arguments: Any, path: str) -> dict[str, Any]:
    """A call as the wire has it; `path` leads to where its name and arguments are."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise wrong(f"{path}.name", f"{shown(name)} is no name of a function; a name has {NAMES}")
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str):
        raise wrong(f"{path}.arguments", f"{shown(arguments)} are no arguments; send an object as JSON in a text")
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _call(given: Any, path: str) -> dict[str, Any]:
    if not isinstance(given, dict) or given.get("type", "function") != "function":
        raise wrong(path, f"{shown(given)} is no call of a function")
    id, function = given.get("id"), given.get("function")
    if not isinstance(id, str) or not id:
        raise wrong(f"{path}.id", "a call has an id, by which a message with the role tool answers it")
    if not isinstance(function, dict):
        raise wrong(f"{path}.function", f"{shown(function)} is no function; send its name and its arguments")
    return one_call(id, function.get("name"), function.get("arguments", "{}"), f"{path}.function")
