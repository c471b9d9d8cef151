"""The tools that a call offers and how its answer is to use them, whatever the dialect: read, and refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loraland.api.errors import ApiError

MAX_TOOLS: Final = 128
NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NAMES: Final = "1 to 64 letters, digits, _ or -"
EMPTY: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}
"""The parameters of a function that tells none."""

Read = Callable[[Any, str], "Function"]
"""Reads one tool of a dialect, given the path to it."""


@dataclass(frozen=True)
class Function:
    """A function that the caller offers; `parameters` is a JSON schema, and `path` leads to it in the body."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    path: str

    def to_json(self) -> dict[str, Any]:
        about = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": about}


@dataclass(frozen=True)
class Tools:
    """The functions, and the choice among them as `inference.wire.protocol.Generate.tool_choice` has it."""

    functions: tuple[Function, ...]
    choice: str = "auto"

    @property
    def is_forced(self) -> bool:
        return self.choice not in ("auto", "one")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(function.name for function in self.functions)

    def source(self) -> dict[str, str]:
        """The tools as `generations.start` takes them."""
        listed = json.dumps([function.to_json() for function in self.functions], ensure_ascii=False)
        return {"tools": listed, "tool_choice": self.choice}


def chat_function(given: Any, path: str) -> Function:
    """A tool as chats have it: the function in an object of its own."""
    if not isinstance(given, dict) or given.get("type", "function") != "function":
        raise wrong(f"{path}.type", f"{shown(given)} is no function; tools here have the type function")
    return function_of(given.get("function"), f"{path}.function")


def function_of(given: Any, path: str, schema: str = "parameters") -> Function:
    """The function described by `given`, whose JSON schema is called `schema` there."""
    if not isinstance(given, dict):
        raise wrong(path, f"{shown(given)} is no description of a function; send an object with a name")
    name, description = given.get("name"), given.get("description") or ""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise wrong(f"{path}.name", f"{shown(name)} is no name of a function; a name has {NAMES}")
    if not isinstance(description, str):
        raise wrong(f"{path}.description", f"{shown(description)} is no text; describe the function in words")
    parameters = given.get(schema)
    if parameters is not None and not isinstance(parameters, dict):
        raise wrong(f"{path}.{schema}", f"{shown(parameters)} is no JSON schema; send an object")
    if parameters and parameters.get("type", "object") != "object":
        sentence = f"{shown(parameters['type'])} is no type of arguments; these are always an object"
        raise wrong(f"{path}.{schema}.type", sentence)
    return Function(name, description, parameters or EMPTY, f"{path}.{schema}")


def tools_of(
    tools: Any, choice: Any, is_parallel: Any = None, read: Read = chat_function, path: str = "tools"
) -> Tools | None:
    """The tools of a call in OpenAI's words, None where the answer is to call none. A choice without tools to choose
    from asks for nothing, and some clients send it always.

    Raises `ApiError`, which names the place.
    """
    functions = read_all(tools, read, path)
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        functions, choice = _allowed(functions, choice)
    if choice in (None, "auto"):
        return Tools(functions, "one" if is_parallel is False else "auto")
    if choice in ("required", "any"):
        return Tools(functions, "parallel" if is_parallel else "required")
    return Tools(functions, f"={_chosen(functions, choice)}")


def read_all(tools: Any, read: Read, path: str = "tools") -> tuple[Function, ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise wrong(path, f"{shown(tools)} is no list of at most {MAX_TOOLS} tools")
    functions = tuple(read(tool, f"{path}.{number}") for number, tool in enumerate(tools))
    names = [function.name for function in functions]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise wrong(f"{path}.{number}", f"two tools have the name {name!r}; give each a name of its own")
    return functions


def named_in(functions: Sequence[Function], name: Any, path: str) -> str:
    """`name`, which is to be that of one of `functions`."""
    names = [function.name for function in functions]
    if not isinstance(name, str) or name not in names:
        raise wrong(path, f"{shown(name)} is none of the tools, which are {', '.join(names)}")
    return name


def wrong(path: str, sentence: str) -> ApiError:
    return ApiError(400, "invalid_value", f"{path}: {sentence}.", path)


def shown(value: Any) -> str:
    """A value as a sentence shows it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _chosen(functions: Sequence[Function], choice: Any) -> str:
    """The function that an object names: in one of its own, as chats do, or beside its type."""
    if not isinstance(choice, dict) or choice.get("type", "function") != "function":
        sentence = f"{shown(choice)} is no choice; choose none, auto, required or one function by its name"
        raise wrong("tool_choice", sentence)
    inner = choice.get("function")
    if isinstance(inner, dict):
        return named_in(functions, inner.get("name"), "tool_choice.function.name")
    return named_in(functions, choice.get("name"), "tool_choice.name")


def _allowed(functions: tuple[Function, ...], choice: dict[str, Any]) -> tuple[tuple[Function, ...], Any]:
    """The functions that an ``allowed_tools`` leaves, and its mode."""
    inner = choice.get("allowed_tools", choice)
    mode, tools = (inner.get("mode", "auto"), inner.get("tools")) if isinstance(inner, dict) else (None, None)
    if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
        raise wrong("tool_choice", "allowed_tools has a mode, auto or required, and a list of tools")
    names = {_chosen(functions, tool) for tool in tools}
    return tuple(function for function in functions if function.name in names), mode
