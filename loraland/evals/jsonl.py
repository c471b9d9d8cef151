"""A data set as an owner uploads it: JSON lines, looked through row by row, with a reason for every bad one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from django.conf import settings

from inference.storable import is_storable
from inference.tasks.data import DataError, Row, read_row
from loraland.catalogue.template import MAX_FIELDS

FEWEST_ROWS: Final = 20
MOST_REASONS: Final = 20
_NAME: Final = re.compile(r"[A-Za-z_]\w{0,59}", re.ASCII)


@dataclass(frozen=True)
class Examined:
    """The rows that are good, every reason against the others, and the SHA-256 of the whole file."""

    rows: tuple[Row, ...]
    reasons: list[str]
    digest: str

    @property
    def fields(self) -> list[str]:
        return list(self.rows[0].inputs) if self.rows else []


def examine(lines: Iterable[bytes], fewest: int = FEWEST_ROWS, fields: list[str] | None = None) -> Examined:
    """Look through the `lines` of a file, whose rows have `fields`, else those of the first; empty ones are passed."""
    digest, rows, reasons = hashlib.sha256(), [], []
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(lines, 1):
        digest.update(line)
        if not line.strip():
            continue
        try:
            row = _read(line, f"line {number}", fields)
        except DataError as error:
            reasons.append(f"{str(error)[0].upper()}{str(error)[1:]}.")
            continue
        fields = fields or list(row.inputs)
        first = seen.setdefault((*row.inputs.values(), row.target), number)
        if first == number:
            rows.append(row)
        else:
            reasons.append(f"Line {number} repeats line {first}; leave it out.")
    if not reasons and len(rows) < fewest:
        reasons.append(f"There are {len(rows)} rows; it takes {fewest} at least.")
    return Examined(tuple(rows), shortened(reasons), digest.hexdigest())


def examine_test(lines: Iterable[bytes], train: Examined) -> Examined:
    """Look through the `lines` of a test part: the fields of `train`, and no question that is asked there too."""
    found = examine(lines, fewest=1, fields=train.fields or None)
    known = {tuple(row.inputs.values()) for row in train.rows}
    twice = [row for row in found.rows if tuple(row.inputs.values()) in known]
    if not twice:
        return found
    first = " · ".join(twice[0].inputs.values())[:80]
    sentence = f"{len(twice)} test rows ask what a training row asks, such as “{first}”; leave them out of one part."
    return replace(found, reasons=[*found.reasons, sentence])


def shortened(reasons: list[str]) -> list[str]:
    """The first `MOST_REASONS`, and how many more there are."""
    more = len(reasons) - MOST_REASONS
    return reasons if more <= 0 else [*reasons[:MOST_REASONS], f"And {more} more lines have faults."]


def _read(line: bytes, where: str, fields: list[str] | None) -> Row:
    try:
        row = read_row(line.decode(), where, fields)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text") from error
    if fields is None:
        _check_fields(row, where)
    if not is_storable([*row.inputs.values(), row.target]):
        raise DataError(f"{where} holds a NUL or half a character")
    if not row.target.strip():
        raise DataError(f"{where} has an empty target; there is nothing to learn from it")
    if (size := sum(map(len, row.inputs.values()))) > settings.MAX_INPUT_CHARS:
        raise DataError(f"{where} has {size} characters of input; at most {settings.MAX_INPUT_CHARS} can be asked")
    return row


def _check_fields(row: Row, where: str) -> None:
    if not 1 <= len(row.inputs) <= MAX_FIELDS:
        raise DataError(f"{where} has {len(row.inputs)} fields; a prompt takes from 1 to {MAX_FIELDS}")
    if bad := [name for name in row.inputs if not _NAME.fullmatch(name)]:
        raise DataError(f"{where} has the field {bad[0]!r}; name fields with letters, digits and underscores")
