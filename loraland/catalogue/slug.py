"""What an adapter may be called in addresses and in the API."""

from __future__ import annotations

from typing import Final

from loraland import bases
from loraland.bases import AUTO, BASE

UNNAMED: Final = ("", "__base_model__")
"""What no adapter is called, and LoRAX's clients send for the base."""
STAND_INS: Final = ("tgi", "dummy")
"""What TGI's clients send where nobody named a model; it means the base unless an adapter is called so."""


def is_bases_own(name: str) -> bool:
    """Whether `name` is that of a base that is served, or says that nobody is named."""
    return name in UNNAMED or bases.spoken(name) is not None


def refusal(slug: str) -> str:
    """Why no adapter may have this slug, which is a valid one or empty; empty when one may."""
    if not slug:
        return "No address can be made from the name; write one of letters, digits and -."
    if slug == AUTO:
        return f"{AUTO} is what asks for the adapter that fits; write another slug."
    return f"{BASE} is the name of the base model itself; write another slug." if slug == BASE else ""
