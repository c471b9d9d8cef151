"""Whole numbers that strangers write: ASCII digits, and in the range of whoever takes them."""

from __future__ import annotations


def whole(text: str, high: int, low: int = 0) -> int:
    """The number that `text` writes. Raises ValueError, with a sentence, for all but `low` to `high`.

    Its digits are counted before they are read: Python reads those of every script, and slowly when there are many.
    """
    if text.isascii() and text.isdigit() and len(text) <= len(str(high)) and low <= int(text) <= high:
        return int(text)
    raise ValueError(f"{text[:40]!r} is not a whole number from {low} to {high}")
