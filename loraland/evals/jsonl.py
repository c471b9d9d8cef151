"""A data set as an owner uploads it: JSON lines, looked through row by row, with a reason for each of the first bad.

The work has bounds: of bytes, of lines and their length, of rows, and of reasons, after which nothing more is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Final

from django.conf import settings

from inference.adapters.storable import is_storable
from inference.tasks.data import DataError, Row, read_row
from inference.tasks.template import FIELD
from loraland.catalogue.template import MAX_FIELDS

FEWEST_ROWS: Final = 20
MOST_REASONS: Final = 20
MOST_REASON_CHARS: Final = 500
MOST_BYTES: Final = 64 * 2**20
MOST_ROWS: Final = 200_000
MOST_LINES: Final = 2 * MOST_ROWS
MOST_BYTES_A_CHARACTER: Final = 12
"""A pair of escapes in JSON; a line may hold as many characters of input and of target as can be asked."""


@dataclass(frozen=True)
class Examined:
    """The rows that are good, the reasons against others, and the SHA-256 of the whole file where there are none."""

    rows: tuple[Row, ...]
    reasons: list[str]
    digest: str

    @property
    def fields(self) -> list[str]:
        return list(self.rows[0].inputs) if self.rows else []


def examine(lines: Iterable[bytes], fewest: int = FEWEST_ROWS, fields: list[str] | None = None) -> Examined:
    """Look through the `lines` of a file, whose rows have `fields`, else those of the first; empty ones are passed.

    It ends early at the last reason that is told, and where there are more lines or rows than are taken.
    """
    digest, reasons = hashlib.sha256(), list[str]()
    rows: list[Row] = []
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(lines, 1):
        digest.update(line)
        if reason := _excess(number, len(rows), line):
            reasons.append(reason)
            break
        if not line.strip():
            continue
        try:
            row = _read(line, f"line {number}", fields)
            fields = fields or list(row.inputs)
            _check_new(row, number, seen)
            rows.append(row)
        except DataError as error:
            reasons.append(_sentence(error))
        if len(reasons) == MOST_REASONS:
            reasons.append(f"So many of the first {number} lines have faults that the rest was not read.")
            break
    if not reasons and len(rows) < fewest:
        reasons.append(f"There are {len(rows)} rows; it takes {fewest} at least.")
    return Examined(tuple(rows), reasons, digest.hexdigest())


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of `file`, one after the other; one that is too long comes cut, so that it is refused."""
    while line := file.readline(_most_bytes() + 1):
        yield line


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


def _sentence(error: DataError) -> str:
    """What `error` says, in bounds, and without half characters, which no page can show."""
    text = str(error)[:MOST_REASON_CHARS].encode("utf-8", "replace").decode()
    return f"{text[0].upper()}{text[1:]}."


def _most_bytes() -> int:
    return 2 * MOST_BYTES_A_CHARACTER * settings.MAX_INPUT_CHARS


def _excess(number: int, num_rows: int, line: bytes) -> str:
    """Why nothing behind this line is read, if so."""
    if len(line) > _most_bytes():
        return f"Line {number} has more than {_most_bytes()} bytes; give each row a line of its own."
    if number > MOST_LINES:
        return f"There are more than {MOST_LINES} lines; leave out the empty ones."
    return f"There are more than {MOST_ROWS} rows; take a part of them." if num_rows > MOST_ROWS else ""


def _check_new(row: Row, number: int, seen: dict[tuple[str, ...], int]) -> None:
    first = seen.setdefault((*row.inputs.values(), row.target), number)
    if first != number:
        raise DataError(f"line {number} repeats line {first}; leave it out")


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
    if (size := len(row.target)) > settings.MAX_INPUT_CHARS:
        raise DataError(f"{where} has a target of {size} characters; at most {settings.MAX_INPUT_CHARS} are learnt")
    return row


def _check_fields(row: Row, where: str) -> None:
    if not 1 <= len(row.inputs) <= MAX_FIELDS:
        raise DataError(f"{where} has {len(row.inputs)} fields; a prompt takes from 1 to {MAX_FIELDS}")
    if bad := [name[:80] for name in row.inputs if not FIELD.fullmatch(name)]:
        raise DataError(f"{where} has the field {bad[0]!r}; name fields with letters, digits and underscores")
