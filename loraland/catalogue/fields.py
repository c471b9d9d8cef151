"""The fields of a template in a text that names them: a JSON object of them, or a line for each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any


def of_object(text: str, fields: Sequence[str]) -> dict[str, str] | None:
    """The fields in a text that is a JSON object of exactly these. Numbers are written as the text has them."""
    try:
        found = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != set(fields):
        return None
    values = {name: _as_text(value) for name, value in found.items()}
    return {name: value for name, value in values.items() if value is not None} if None not in values.values() else None


def of_lines(text: str, fields: Sequence[str]) -> dict[str, str] | None:
    """The fields in lines that begin with their names, in any order; a value goes on up to the next name."""
    name = "|".join(sorted(map(re.escape, fields), key=len, reverse=True))
    before, *found = re.split(rf"^[ \t]*({name})[ \t]*:", text, flags=re.MULTILINE | re.IGNORECASE)
    spelled = {field.lower(): field for field in fields}
    names = [spelled[each.lower()] for each in found[::2]]
    if before.strip() or sorted(names) != sorted(fields):
        return None
    return dict(zip(names, map(str.strip, found[1::2]), strict=True))


def _as_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None
