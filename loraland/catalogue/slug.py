"""What an adapter may be called in addresses and in the API."""

from __future__ import annotations

from typing import Final

BASE: Final = "base"
"""The base model itself, in the API and on pages."""


def refusal(slug: str) -> str:
    """Why no adapter may have this slug, which is a valid one or empty; empty when one may."""
    if not slug:
        return "No address can be made from the name; write one of letters, digits and -."
    return f"{BASE} is the name of the base model itself; write another slug." if slug == BASE else ""
