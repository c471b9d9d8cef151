"""A data set as an owner uploads it: JSON lines, looked through row by row, with a reason for every bad one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from django.conf import settings

from inference.tasks.data import DataError, Row, read_row
from loraland.catalogue.storable import is_storable
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


def examine(lines: Iterable[bytes]) -> Examined:
    """Look through the `lines` of a file; empty ones are passed over."""
    digest, rows, reasons = hashlib.sha256(), [], []
    seen: dict[tuple[str, ...], int] = {}
    fields: list[str] | None = None
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
    if not reasons and len(rows) < FEWEST_ROWS:
        reasons.append(f"There are {len(rows)} rows; it takes {FEWEST_ROWS} at least to learn from.")
    return Examined(tuple(rows), shortened(reasons), digest.hexdigest())


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
