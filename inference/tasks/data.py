"""Rows of a data set: one JSON object a line, ``{"inputs": {field: text}, "target": text}`` or another of `forms`."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference.reading import reading
from inference.tasks.forms import ROW, FormError, fields_and_target
from inference.tasks.lines import parts_of, text_lines, whole_form

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
    place = place_of(folder, task)
    train, held_out = hold_out(read_rows(place / "train.jsonl", fields), validation)
    return Split(train, held_out, read_rows(place / "test.jsonl", fields))


def read_rows(path: Path, fields: Sequence[str] | None = None) -> tuple[Row, ...]:
    """Read the rows of the file at `path`, which must have the inputs `fields`, else those of the first."""
    with reading(path.name, DataError), path.open("rb") as file:
        raw = file.read()
    if form := whole_form(parts_of(raw[:10_000].split(b"\n")[0])[0]):
        raise DataError(f"{path} is {form}")
    rows: list[Row] = []
    given = fields
    for number, line in enumerate(text_lines(_decoded(raw, path)), start=1):
        if line.strip():
            rows.append(read_row(line, f"{path.name}, line {number}", fields, may_grow=given is None))
            fields = given or list(rows[-1].inputs)
    if not rows:
        raise DataError(f"{path} is empty; it needs at least one row")
    return evened(rows)


def evened(rows: Sequence[Row]) -> tuple[Row, ...]:
    """`rows` with the fields of the last, which are all there are; what a row does not have is empty."""
    names = list(rows[-1].inputs) if rows else []
    return tuple(row if list(row.inputs) == names else replace(row, inputs=_filled(row, names)) for row in rows)


def _filled(row: Row, names: Sequence[str]) -> dict[str, str]:
    return {name: row.inputs.get(name, "") for name in names}


def _decoded(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from error


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


def place_of(folder: Path, task: str) -> Path:
    """Where the two files of `task` are: `folder`, or a folder of its name therein. Raises `DataError`."""
    for place in (folder, folder / task):
        if (place / "train.jsonl").is_file() and (place / "test.jsonl").is_file():
            return place
    raise DataError(
        f"there is no data for {task} in {folder}: "
        f"it should hold train.jsonl and test.jsonl, or a folder {task} with both"
    )


def read_row(line: str, where: str, fields: Sequence[str] | None = None, may_grow: bool = False) -> Row:
    """The row in `line`, as `row_of` reads it. Raises `DataError`, which says `where`."""
    with reading(where, DataError):
        try:
            data = json.loads(line, parse_constant=_no_number, object_pairs_hook=_unique)
        except FormError as error:
            raise DataError(f"{where} {error}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON; {ROW}") from error
        return row_of(data, where, fields, may_grow)


def row_of(data: Any, where: str, fields: Sequence[str] | None = None, may_grow: bool = False) -> Row:
    """The row in parsed JSON, which has the inputs `fields`, in their order, if they are given. Raises `DataError`.

    A field that is left out is empty in a row of another's form; one that is new comes behind them if they `may_grow`.
    """
    try:
        inputs, target = fields_and_target(data)
    except FormError as error:
        raise DataError(f"{where} {error}") from error
    if fields is None:
        return Row(inputs, target)
    names = list(fields)
    if not isinstance(data.get("inputs"), dict):
        names += [name for name in inputs if may_grow and name not in fields]
        inputs = dict.fromkeys(names, "") | inputs
    if set(names) != set(inputs):
        raise DataError(f"{where} has the fields {', '.join(inputs) or 'none'}; needed: {', '.join(fields)}")
    return Row({name: inputs[name] for name in names}, target)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FormError(f"gives {twice[:80]!r} twice; give it once")
    return found


def _no_number(name: str) -> Any:
    raise FormError(f"holds {name}, which is no number in JSON; write null or a text")


def _question(row: Row) -> tuple[str, ...]:
    return tuple(row.inputs.values())
