"""Prompt templates: text with literal ``{field}`` placeholders, and nothing cleverer."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import Final

FIELD: Final = re.compile(r"[A-Za-z_]\w{0,59}", re.ASCII)
"""The name of a field."""
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]\w{0,59})\}", re.ASCII)


def pieces(template: str, fields: Container[str] | None = None) -> Iterator[tuple[str, bool]]:
    """`template` in order: text that stands as it is, and the names of fields, which come with True.

    With `fields`, a placeholder of any other name is text.
    """
    for index, piece in enumerate(_PLACEHOLDER.split(template)):
        if index % 2 and (fields is None or piece in fields):
            yield piece, True
        elif piece:
            yield f"{{{piece}}}" if index % 2 else piece, False


def placeholders(template: str) -> tuple[str, ...]:
    """The names of the fields in `template`, each once, in order of first use."""
    return tuple(dict.fromkeys(piece for piece, is_field in pieces(template) if is_field))


def fill(template: str, inputs: Mapping[str, str]) -> str:
    """Put each of `inputs` where the template names it, in one pass: a value is never read as a template.

    Raises `ValueError` when a field is missing, or given and unknown.
    """
    expected = placeholders(template)
    missing = [name for name in expected if name not in inputs]
    unknown = [name for name in inputs if name not in expected]
    if missing or unknown:
        raise ValueError(
            f"the template needs the fields {_names(expected)}; missing: {_names(missing)}, unknown: {_names(unknown)}"
        )
    return "".join(text for text, _ in filled(template, inputs))


def filled(template: str, inputs: Mapping[str, str]) -> list[tuple[str, bool]]:
    """`template` in order with `inputs` in their places: text, and whether it is one of them."""
    return [(inputs[piece] if is_field else piece, is_field) for piece, is_field in pieces(template, inputs)]


def unfill(template: str, text: str) -> dict[str, str] | None:
    """What was filled into `template` where that gave `text`, white space around both aside; None where it did not, or
    two fields stand with nothing between them. Of several ways to read a text that has the template's own words in a
    field, it is the one with the shortest first fields.
    """
    parts, rest = list(pieces(template.strip())), text.strip()
    if not any(piece.strip() for piece, is_field in parts if not is_field):
        return None
    found: dict[str, str] = {}
    for place, (piece, is_field) in enumerate(parts):
        if is_field:
            value = _up_to(parts[place + 1 :], rest)
            if value is None or found.setdefault(piece, value) != value:
                return None
            rest = rest[len(value) :]
        elif not rest.startswith(piece):
            return None
        else:
            rest = rest[len(piece) :]
    return found if not rest else None


def _up_to(following: list[tuple[str, bool]], rest: str) -> str | None:
    """The beginning of `rest` before the next of the `following` pieces, which is the last of all at its end."""
    if not following:
        return rest
    piece, is_field = following[0]
    at = -1 if is_field else len(rest) - len(piece) if len(following) == 1 else rest.find(piece)
    return rest[:at] if at >= 0 else None


def opening(template: str) -> str:
    """The text of `template` before its first placeholder."""
    piece, is_field = next(pieces(template), ("", False))
    return "" if is_field else piece


def _names(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names) or "none"


def label_of(name: str) -> str:
    """What a form calls the field `name`."""
    return name.replace("_", " ").strip().capitalize()
