"""Rows of a data set: one JSON object a line, ``{"inputs": {field: text}, "target": text}``."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.reading import reading

VALIDATION_SEED = 20240501
"""Fixed: recipes are compared on the same validation rows, whatever their own seed."""
VALIDATION_ROWS = 100
"""So many are held out of the training rows at most."""


class DataError(ValueError):
    """A data set that is not there or does not fit its recipe."""


@dataclass(frozen=True)
class Row:
    """A question and its answer."""

    inputs: dict[str, str]
    target: str


@dataclass(frozen=True)
class Split:
    """The rows of one task. Recipes and prompts are chosen on `validation`; `test` is only ever scored."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]


def read_split(folder: Path, task: str, fields: Sequence[str], validation: int = VALIDATION_ROWS) -> Split:
    """Read train.jsonl and test.jsonl of `task`, and hold `validation` questions out of the former.

    `folder` holds the two files, or a folder named after the task that does. Raises `DataError` when they
    are not there, a line is not a row, or a row's fields are not `fields`.
    """
    place = _place(folder, task)
    train, held_out = hold_out(read_rows(place / "train.jsonl", fields), validation)
    return Split(train, held_out, read_rows(place / "test.jsonl", fields))


def read_rows(path: Path, fields: Sequence[str]) -> tuple[Row, ...]:
    """Read the rows of the file at `path`, which must have the inputs `fields`."""
    with reading(path.name, DataError), path.open(encoding="utf-8") as file:
        rows = tuple(read_row(line, f"{path.name}, line {number}", fields) for number, line in enumerate(file, start=1))
    if not rows:
        raise DataError(f"{path} is empty; it needs at least one row")
    return rows


def hold_out(rows: Sequence[Row], count: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Part `rows` into (kept, held out) so that no question is in both; the latter has `count` distinct questions.

    At most a fifth of the questions is held out.
    """
    questions = list(dict.fromkeys(_question(row) for row in rows))
    random.Random(VALIDATION_SEED).shuffle(questions)
    chosen = set(questions[: min(count, len(questions) // 5)])
    kept = tuple(row for row in rows if _question(row) not in chosen)
    first = {_question(row): row for row in reversed(rows)}
    return kept, tuple(first[question] for question in questions if question in chosen)


def _place(folder: Path, task: str) -> Path:
    for place in (folder, folder / task):
        if (place / "train.jsonl").is_file() and (place / "test.jsonl").is_file():
            return place
    raise DataError(
        f"there is no data for {task} in {folder}: "
        f"it should hold train.jsonl and test.jsonl, or a folder {task} with both"
    )


def read_row(line: str, where: str, fields: Sequence[str] | None = None) -> Row:
    """The row in `line`, which has the inputs `fields` if they are given. Raises `DataError`, which says `where`."""
    with reading(where, DataError):
        row = _row(line, where)
    if fields is not None and set(fields) != set(row.inputs):
        raise DataError(f"{where} has the fields {', '.join(row.inputs) or 'none'}; needed: {', '.join(fields)}")
    if not isinstance(row.target, str) or not all(isinstance(value, str) for value in row.inputs.values()):
        raise DataError(f"{where} holds a value that is not text; inputs and targets are strings")
    return row


def _row(line: str, where: str) -> Row:
    try:
        data = json.loads(line)
        row = Row(inputs=data["inputs"], target=data["target"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{where} is not {{"inputs": {{…}}, "target": "…"}}: {str(error)[:200]}') from error
    if not isinstance(row.inputs, dict):
        raise DataError(f'{where} is not {{"inputs": {{…}}, "target": "…"}}: its inputs are no object')
    return row


def _question(row: Row) -> tuple[str, ...]:
    return tuple(row.inputs.values())
