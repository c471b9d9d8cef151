"""From the columns of a hub's data set to rows of ours, and which of them are learned from and tested on."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from inference.tasks.data import DataError, Row
from inference.tasks.hub import Hub
from inference.tasks.hub_readings import READINGS, Raw
from inference.tasks.template import fill, placeholders

MAX_TRAIN: Final = 4000
MAX_TEST: Final = 300
MAX_CHARACTERS: Final = 1000
"""The longest value, about 250 tokens: rows with a longer one are left out."""
SEED: Final = 20240501

_WORD: Final = re.compile(r"\w+")


def as_row(raw: Raw, hub: Hub) -> Row | None:
    """The row that `raw` is; None when it has no answer, no question, or a value that is too long or broken.

    Raises `DataError` when it lacks a column that `hub` names.
    """
    try:
        if hub.reading:
            raw = READINGS[hub.reading](raw, hub.target, hub.labels)
        target = _answer(raw[hub.target], hub.labels)
        row = Row(
            {
                name: fill(form, {column: _text(raw[column]) for column in placeholders(form)}).strip()
                for name, form in hub.inputs.items()
            },
            target,
        )
    except KeyError as error:
        raise DataError(f"{hub.id} has no column {error}; it has {', '.join(raw)}") from error
    values = [*row.inputs.values(), row.target]
    is_whole = row.target and any(row.inputs.values()) and not any("\ufffd" in value for value in values)
    return row if is_whole and max(map(len, values)) <= MAX_CHARACTERS else None


def choose(train: Iterable[Row], test: Iterable[Row] | None) -> tuple[list[Row], list[Row]]:
    """At most `MAX_TRAIN` and `MAX_TEST` rows, drawn by `SEED`, so that no question is in both.

    Questions are compared without case and marks. With no `test`, a fifth of `train` at most is taken for it, and rows
    that share their first input stay on one side.
    """
    kept = _shuffled(dict.fromkeys((tuple(row.inputs.items()), row.target) for row in train))
    if test is None:
        return _cut(kept)
    tested = _one_a_question(_shuffled((tuple(row.inputs.items()), row.target) for row in test))[:MAX_TEST]
    secret = {_question(row) for row in tested}
    return [row for row in kept if _question(row) not in secret][:MAX_TRAIN], tested


def _cut(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    topics = list(dict.fromkeys(_words(_first(row)) for row in rows))
    chosen = set(topics[: min(MAX_TEST, len(topics) // 5)])
    tested = _one_a_question([row for row in rows if _words(_first(row)) in chosen])
    return [row for row in rows if _words(_first(row)) not in chosen][:MAX_TRAIN], tested[:MAX_TEST]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _answer(value: Any, labels: Sequence[str]) -> str:
    """A label by its number, a fraction with one decimal, else the text; empty for -1, an answer kept secret."""
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, int) and labels:
        return labels[value] if value >= 0 else ""
    return _text(value).strip()


def _shuffled(pairs: Iterable[tuple[tuple[tuple[str, str], ...], str]]) -> list[Row]:
    rows = [Row(dict(inputs), target) for inputs, target in pairs]
    random.Random(SEED).shuffle(rows)
    return rows


def _one_a_question(rows: Iterable[Row]) -> list[Row]:
    return list({_question(row): row for row in rows}.values())


def _question(row: Row) -> tuple[str, ...]:
    return tuple(_words(value) for value in row.inputs.values())


def _first(row: Row) -> str:
    return next(iter(row.inputs.values()))


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))
