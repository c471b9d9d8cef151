"""A recipe as the text of its TOML file, for recipes that are made of a form instead of written by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from inference.tasks.recipe import Recipe


def recipe_text(recipe: Recipe) -> str:
    """The text of a file that is read back as `recipe`; its task is the name of that file."""
    data = dataclasses.asdict(recipe)
    prompt = {"template": data.pop("template"), "instruction": data.pop("instruction"), "field": data.pop("fields")}
    tables = {"prompt": prompt, "lora": data.pop("lora"), "training": data.pop("schedule")}
    tables |= {"dataset": data.pop("dataset")}
    del data["task"]
    data["example"] = data.pop("examples")
    parts = [_lines(data), *(f"[{name}]\n{_lines(table)}" for name, table in tables.items())]
    return "\n\n".join(parts) + "\n"


def _lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} = {toml_value(value)}" for name, value in table.items() if value is not None)


def toml_value(value: Any) -> str:
    """`value` in TOML; JSON's texts and numbers are also TOML's, but for the control character DEL."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {toml_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007F")


def _key(key: str) -> str:
    return key if key.isascii() and key.isidentifier() else toml_value(key)
