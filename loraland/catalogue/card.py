"""What an owner tells about an adapter: the card.toml beside its files, or the same facts from a form."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from inference.adapters.storable import is_storable
from inference.tasks.verdict import CLEAR, VERDICTS
from loraland.catalogue.template import TemplateError, check_examples, check_fields

NAME: Final = "card.toml"
MAX_CARD_BYTES: Final = 256 * 1024
MAX_DOTS: Final = 250
"""In one line. The work of tomllib grows with the square of the parts of a key such as a.b.c, which fills 256 KB."""

TEXTS: Final = {
    "name": 120,
    "category": 60,
    "summary": 240,
    "description": 20_000,
    "base": 200,
    "license": 120,
    "author": 120,
}
"""The plain texts of a card and how many characters each may have."""

TABLES: Final[dict[str, dict[str, tuple[type, ...]]]] = {
    "dataset": {"name": (str,), "source": (str,), "license": (str,), "restricted": (bool,), "train_rows": (int,)},
    "training": {
        "steps": (int,),
        "batch": (int,),
        "learning_rate": (int, float),
        "rank": (int,),
        "lora_alpha": (int, float),
        "target_modules": (list,),
        "max_length": (int,),
        "seed": (int,),
        "minutes": (int, float),
        "device": (str,),
        "date": (str,),
    },
    "score": {
        "metric": (str,),
        "base": (int, float),
        "tuned": (int, float),
        "low": (int, float),
        "high": (int, float),
        "n": (int,),
        "split": (str,),
        "base_prompt": (str,),
        "gain": (str,),
        "remark": (str,),
    },
}
"""The tables of a card, their keys and the types of each; every key may be left out."""


class CardError(ValueError):
    """A card that cannot be used; `reasons` are sentences."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Card:
    """The facts of an adapter and of the version whose files it lies beside. `base` is advisory."""

    name: str
    category: str = ""
    summary: str = ""
    description: str = ""
    base: str = ""
    license: str = ""
    author: str = ""
    dataset: dict[str, Any] = field(default_factory=dict)
    template: str = ""
    fields: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)


def read_card(path: Path) -> Card:
    """Read the card.toml at `path`. Raises `CardError` with every reason to refuse it."""
    if path.stat().st_size > MAX_CARD_BYTES:
        raise CardError([f"{NAME} is larger than {MAX_CARD_BYTES // 1024} KB."])
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CardError([f"{NAME} is not TOML: {error}."]) from error
    if not is_storable(data):
        raise CardError([f"{NAME} holds characters or numbers that cannot be kept."])
    reasons = [*_unknown(data), *_texts(data), *_tables(data)]
    prompt = _prompt(data, reasons)
    if reasons:
        raise CardError(reasons)
    values: dict[str, Any] = {key: data.get(key, "") for key in TEXTS}
    values |= {key: _plain(data.get(key, {})) for key in TABLES}
    return Card(**values, **prompt)


def _parse(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DOTS:
            raise ValueError(f"line {number} has more than {MAX_DOTS} dots; break it, or give its key fewer parts")
    return tomllib.loads(text)


def _unknown(data: dict[str, Any]) -> list[str]:
    known = {*TEXTS, *TABLES, "prompt", "example"}
    return [f"{NAME} has an unknown key {key!r}; known are {', '.join(sorted(known))}." for key in data.keys() - known]


def _texts(data: dict[str, Any]) -> list[str]:
    reasons = [] if data.get("name") else [f"{NAME} has no name; give the adapter's name for people."]
    for key, limit in TEXTS.items():
        value = data.get(key, "")
        if not isinstance(value, str):
            reasons.append(f"{key} in {NAME} must be text in quotes.")
        elif len(value) > limit:
            reasons.append(f"{key} in {NAME} has {len(value)} characters; at most {limit} are shown.")
    return reasons


def _tables(data: dict[str, Any]) -> list[str]:
    reasons = []
    for table, keys in TABLES.items():
        values = data.get(table, {})
        if not isinstance(values, dict):
            reasons.append(f"{table} in {NAME} must be a table: [{table}].")
            continue
        for key, value in values.items():
            if key not in keys:
                reasons.append(f"[{table}] in {NAME} has an unknown key {key!r}; known are {', '.join(keys)}.")
            elif not _is(_simple(value), keys[key]):
                wanted = " or ".join(kind.__name__ for kind in keys[key])
                reasons.append(f"{key} in [{table}] of {NAME} is {value!r}; it must be of type {wanted}.")
    if isinstance(score := data.get("score", {}), dict) and score.get("gain", CLEAR) not in VERDICTS:
        reasons.append(f"gain in [score] of {NAME} is {score['gain']!r}; write {' or '.join(map(repr, VERDICTS))}.")
    return reasons


def _prompt(data: dict[str, Any], reasons: list[str]) -> dict[str, Any]:
    """The template, fields and examples of a card; what is wrong with them is added to `reasons`."""
    prompt, examples = data.get("prompt", {}), data.get("example", [])
    if not isinstance(prompt, dict) or not isinstance(examples, list):
        reasons.append(f"{NAME} must have one [prompt] table and any number of [[example]].")
        return {}
    template, fields = prompt.get("template", ""), prompt.get("field", [])
    if unknown := sorted(prompt.keys() - {"template", "field"}):
        reasons.append(f"[prompt] in {NAME} has unknown keys: {', '.join(unknown)}; it takes template and field.")
    if not isinstance(template, str) or not isinstance(fields, list) or not all(isinstance(f, dict) for f in fields):
        reasons.append(f"[prompt] in {NAME} must have a template in quotes and its fields as [[prompt.field]].")
        return {}
    try:
        checked = check_fields(template, fields)
        return {"template": template, "fields": checked, "examples": check_examples(examples, checked)}
    except TemplateError as error:
        reasons += [f"{NAME}: {reason}" for reason in error.reasons]
        return {}


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether `value` is of one of `kinds`; a switch is not a number, and a number is finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _simple(value: Any) -> Any:
    """TOML's dates as text, so that they can be kept as JSON."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    return {key: _simple(value) for key, value in table.items()}
