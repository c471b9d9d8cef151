"""What both databases can keep: text without NULs and half characters, JSON without numbers that are none."""

from __future__ import annotations

import json
from typing import Any, Final

MOST_LEVELS: Final = 100
"""Deeper trees are refused, since whoever reads one later may stand deeper in calls of its own."""


def is_storable(value: Any) -> bool:
    """Whether `value`, a text or a tree of JSON values, can be kept (TOML's dates count as texts)."""
    if not _is_shallow(value, MOST_LEVELS):
        return False
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
        text.encode()
    except (ValueError, RecursionError):
        return False
    return "\\u0000" not in text.replace("\\\\", "")  # u0000 behind an escaped backslash is plain text


def _is_shallow(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return levels > 0 and all(_is_shallow(part, levels - 1) for part in parts)
