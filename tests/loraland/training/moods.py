"""Rows whose mood can be read off their text."""

from __future__ import annotations

import json

MOODS = ("joy", "anger", "anger", "sadness")


def lines(count: int = 60, start: int = 0) -> list[bytes]:
    """`count` rows, from number `start` on."""
    rows = (
        {"inputs": {"text": f"day {n} of {MOODS[n % 4]}"}, "target": MOODS[n % 4]} for n in range(start, start + count)
    )
    return [json.dumps(row).encode() + b"\n" for row in rows]
