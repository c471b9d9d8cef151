"""What both databases can keep: text without NULs and half characters, JSON without numbers that are none."""

from __future__ import annotations

import json
from typing import Any


def is_storable(value: Any) -> bool:
    """Whether `value`, a text or a tree of JSON values, can be kept (TOML's dates count as texts)."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
        text.encode()
    except (ValueError, RecursionError):
        return False
    return "\\u0000" not in text.replace("\\\\", "")  # u0000 behind an escaped backslash is plain text
