"""The rows of a data set as a training takes them: what is learnt from, and what is held out to be scored on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from inference.tasks.data import VALIDATION_ROWS, Row, hold_out
from loraland.bases import Base
from loraland.evals.jsonl import examine, examine_test, lines_of
from loraland.evals.models import DataSet
from loraland.training.lengths import counter, lengths_of

MOST_TEST_ROWS: Final = 300


@dataclass(frozen=True)
class Parts:
    """The rows to learn from, of which the trainer holds some out for itself, and the test rows."""

    train: tuple[Row, ...]
    test: tuple[Row, ...]

    @cached_property
    def learnt(self) -> tuple[Row, ...]:
        """What is left to learn from once the trainer has held its validation rows out: the number of the card."""
        return hold_out(self.train, VALIDATION_ROWS)[0]

    def lengths(self, template: str, base: Base) -> tuple[int, ...]:
        """The tokens that each row to learn from has for `base`, in its prompt by `template`."""
        key = (template, base)
        if key not in self._lengths:
            self._lengths.clear()
            self._lengths[key] = lengths_of(self.learnt, template, counter(base))
        return self._lengths[key]

    @cached_property
    def _lengths(self) -> dict[tuple[str, Base], tuple[int, ...]]:
        return {}


def parts_of(data: DataSet) -> Parts:
    """The parts of `data`; where no test part came, one is cut, always the same. Raises OSError for lost files."""
    return _parts(data.path, data.test_path if data.test_rows else None)


@lru_cache(maxsize=2)  # a file lies under its digest and never changes
def _parts(path: Path, test_path: Path | None) -> Parts:
    with path.open("rb") as file:
        train = examine(lines_of(file))
    if test_path is None:
        return Parts(*hold_out(train.rows, MOST_TEST_ROWS))
    with test_path.open("rb") as file:
        return Parts(train.rows, examine_test(lines_of(file), train).rows[:MOST_TEST_ROWS])


def write_parts(parts: Parts, fields: Sequence[str], folder: Path) -> None:
    """Write train.jsonl and test.jsonl into `folder`, each whole or not at all, with the inputs `fields` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(parts.train, fields, folder / "train.jsonl")
    _write(parts.test, fields, folder / "test.jsonl")


def _write(rows: Iterable[Row], fields: Sequence[str], path: Path) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            inputs = {name: row.inputs[name] for name in fields}
            file.write(json.dumps({"inputs": inputs, "target": row.target}, ensure_ascii=False) + "\n")
    partial.replace(path)
