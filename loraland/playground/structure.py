"""Telling an answer that is structure, such as JSON, SQL or pairs of a name and a value, from prose.

What a model writes may take any form, so nothing here tries a character more often than a fixed number of times.
"""

from __future__ import annotations

import json
import re
from typing import Final

MAX_STRUCTURED_CHARS: Final = 4000

_CALL: Final = re.compile(r"[A-Za-z_]\w*+\(.*\)[.;]?", re.DOTALL)
"""inform(name[Portal], rating[good])"""
_QUERY: Final = re.compile(r"(?:SELECT\s.+\sFROM|INSERT INTO|UPDATE|DELETE FROM)\s.+", re.DOTALL)
_NAME: Final = re.compile(r"\s?[\w .\"']{1,40}\s?[=:]")


def is_structured(text: str) -> bool:
    """Whether the whole of `text`, without white space around it, reads as structure."""
    if not text or len(text) > MAX_STRUCTURED_CHARS:
        return False
    if text[0] in "{[":
        return _is_json(text)
    if "\n\n" in text or "```" in text:
        return False
    return bool(_CALL.fullmatch(text) or _QUERY.fullmatch(text)) or _is_pairs(text)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _is_pairs(text: str) -> bool:
    """Two pairs or more, as in ``intent: PlayMusic; artist: Queen``; only the first must have a value."""
    first, *others = text.removesuffix(";").replace("|", ";").split(";")
    return bool(others) and bool(_value(first)) and all(_value(pair) is not None for pair in others)


def _value(pair: str) -> str | None:
    """What stands behind the name in `pair`; None where there is no name, or more than a line."""
    name = _NAME.match(pair)
    if name is None:
        return None
    value = pair[name.end() :].removeprefix("\n")
    return None if "\n" in value else value
