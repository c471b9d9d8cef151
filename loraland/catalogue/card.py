"""What an owner tells about an adapter in the card.toml beside its files: anybody may have written that."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

from inference.adapters.storable import is_storable
from inference.tasks.card import CARD, TABLES, TEXTS, Card, faults, plain
from loraland.catalogue.template import TemplateError, check_examples, check_fields

MAX_CARD_BYTES: Final = 256 * 1024
MAX_DOTS: Final = 250
"""In one line. The work of tomllib grows with the square of the parts of a key such as a.b.c, which fills 256 KB."""


class CardError(ValueError):
    """A card that cannot be used; `reasons` are sentences."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = reasons


def read_card(path: Path) -> Card:
    """Read the card.toml at `path`. Raises `CardError` with every reason to refuse it."""
    if path.stat().st_size > MAX_CARD_BYTES:
        raise CardError([f"{CARD} is larger than {MAX_CARD_BYTES // 1024} KB."])
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CardError([f"{CARD} is not TOML: {error}."]) from error
    if not is_storable(data):
        raise CardError([f"{CARD} holds characters or numbers that cannot be kept."])
    reasons = list(faults(data))
    prompt = _prompt(data, reasons)
    if reasons:
        raise CardError(reasons)
    values: dict[str, Any] = {key: data.get(key, "") for key in TEXTS}
    values |= {name: {key: plain(value) for key, value in data.get(name, {}).items()} for name in TABLES}
    return Card(**values, **prompt)


def _parse(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DOTS:
            raise ValueError(f"line {number} has more than {MAX_DOTS} dots; break it, or give its key fewer parts")
    return tomllib.loads(text)


def _prompt(data: dict[str, Any], reasons: list[str]) -> dict[str, Any]:
    """The template, fields and examples of a card; what is wrong with them is added to `reasons`."""
    prompt, examples = data.get("prompt", {}), data.get("example", [])
    if not isinstance(prompt, dict) or not isinstance(examples, list):
        reasons.append(f"{CARD} must have one [prompt] table and any number of [[example]].")
        return {}
    template, fields = prompt.get("template", ""), prompt.get("field", [])
    if unknown := sorted(prompt.keys() - {"template", "field"}):
        reasons.append(f"[prompt] in {CARD} has unknown keys: {', '.join(unknown)}; it takes template and field.")
    if not isinstance(template, str) or not isinstance(fields, list) or not all(isinstance(f, dict) for f in fields):
        reasons.append(f"[prompt] in {CARD} must have a template in quotes and its fields as [[prompt.field]].")
        return {}
    try:
        checked = check_fields(template, fields)
        return {"template": template, "fields": checked, "examples": check_examples(examples, checked)}
    except TemplateError as error:
        reasons += [f"{CARD}: {reason}" for reason in error.reasons]
        return {}
