"""What the database can keep: JSON without NUL characters, half characters and numbers that are none."""

from __future__ import annotations

import json
from typing import Any


def is_storable(value: Any) -> bool:
    """Whether both databases take `value`, a tree of JSON values (TOML's dates count as texts)."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
        text.encode()
    except (ValueError, RecursionError):
        return False
    return "\\u0000" not in text
