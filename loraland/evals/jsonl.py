"""A data set as an owner uploads it: JSON lines, looked through row by row, with a reason for each of the first bad.

The work has bounds: of bytes, of lines and their length, of rows, and of reasons, after which nothing more is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from django.conf import settings

from inference.adapters.storable import is_storable
from inference.tasks.data import DataError, Row, evened, read_row
from inference.tasks.lines import parts_of, whole_form, without_mark
from inference.tasks.template import FIELD
from loraland.catalogue.template import MAX_FIELDS

FEWEST_ROWS: Final = 20
MOST_REASONS: Final = 20
MOST_REASON_CHARS: Final = 500
WHERE: Final = "line"
"""How a reader names the line that it is at."""
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
    num_repeats: int = 0
    """Lines that were left out, since another says the same."""
    num_disputed: int = 0
    """Questions to which rows give several answers. All are kept: they may be right, as in translations."""
    disputed: str = ""
    """The first of these."""

    @property
    def fields(self) -> list[str]:
        return list(self.rows[0].inputs) if self.rows else []


def examine(lines: Iterable[bytes], fewest: int = FEWEST_ROWS, fields: list[str] | None = None) -> Examined:
    """Look through the `lines` of a file, whose rows have `fields`, else those of the first; empty ones are passed.

    It ends early at the last reason that is told, and where there are more lines or rows than are taken.
    """
    digest, told = hashlib.sha256(), _Told()
    rows: list[Row] = []
    seen: dict[frozenset[tuple[str, str]], set[str]] = {}
    num_repeats, given = 0, fields
    for number, line in enumerate(without_mark(_digested(lines, digest)), 1):
        if reason := (number == 1 and _foreign(line)) or _excess(number, len(rows), line):
            told.add(reason)
            break
        if not line.strip():
            continue
        try:
            row = _read(line, WHERE, fields, given is None)
            fields = given or list(row.inputs)
        except DataError as error:
            told.fault(number, error)
        else:
            answers = seen.setdefault(frozenset(item for item in row.inputs.items() if item[1]), set())
            num_repeats += row.target in answers
            rows += [] if row.target in answers else [row]
            answers.add(row.target)
        if told.num_faults == MOST_REASONS:
            told.add(f"So many of the first {number} lines have faults that the rest was not read.")
            break
    reasons = told.sentences()
    if not reasons and len(rows) < fewest:
        reasons.append(f"There are {len(rows)} rows; it takes {fewest} at least.")
    disputed = [asked for asked, answers in seen.items() if len(answers) > 1]
    return Examined(evened(rows), reasons, digest.hexdigest(), num_repeats, len(disputed), _shown(disputed, fields))


def _shown(questions: list[frozenset[tuple[str, str]]], fields: list[str] | None) -> str:
    """The first of `questions`, cut."""
    first = dict(questions[0]) if questions else {}
    return " · ".join(first[name] for name in fields or () if name in first)[:80]


class _Told:
    """What is wrong with lines: one sentence for each fault, with the lines that have it."""

    def __init__(self) -> None:
        self._lines: dict[str, list[int]] = {}
        self._last: list[str] = []
        self.num_faults = 0

    def fault(self, number: int, error: DataError) -> None:
        self.num_faults += 1
        self._lines.setdefault(_plain(str(error).removeprefix(f"{WHERE} ")).rstrip("."), []).append(number)

    def add(self, sentence: str) -> None:
        """Say it behind all others."""
        self._last.append(sentence)

    def sentences(self) -> list[str]:
        return [_sentence(fault, numbers) for fault, numbers in self._lines.items()] + self._last


def _sentence(fault: str, numbers: list[int]) -> str:
    """One fault, with its first line and how many more have it."""
    more = len(numbers) - 1
    others = f", and so do {more} more, among them {', '.join(map(str, numbers[1:4]))}" if more else ""
    return f"Line {numbers[0]} {fault}{others}."


def _plain(text: str) -> str:
    """`text` in bounds, and without half characters, which no page can show."""
    return text[:MOST_REASON_CHARS].encode("utf-8", "replace").decode()


def _digested(lines: Iterable[bytes], digest: Any) -> Iterator[bytes]:
    for line in lines:
        digest.update(line)
        yield line


def _foreign(first: bytes) -> str:
    """What the file is instead, in a sentence, if it is none of lines of JSON."""
    form = whole_form(first)
    return f"The file is {form}." if form else ""


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of `file`, one after the other; one that is too long comes cut, so that it is refused."""
    while line := file.readline(_most_bytes() + 1):
        yield from parts_of(line)


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


def _most_bytes() -> int:
    return 2 * MOST_BYTES_A_CHARACTER * settings.MAX_INPUT_CHARS


def _excess(number: int, num_rows: int, line: bytes) -> str:
    """Why nothing behind this line is read, if so."""
    if len(line) > _most_bytes():
        return f"Line {number} has more than {_most_bytes()} bytes; give each row a line of its own."
    if number > MOST_LINES:
        return f"There are more than {MOST_LINES} lines; leave out the empty ones."
    return f"There are more than {MOST_ROWS} rows; take a part of them." if num_rows > MOST_ROWS else ""


def _read(line: bytes, where: str, fields: list[str] | None, may_grow: bool) -> Row:
    try:
        row = read_row(line.decode(), where, fields, may_grow)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text; save the file as UTF-8") from error
    if may_grow and list(row.inputs) != fields:
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
        raise DataError(
            f"{where} has the field {bad[0]!r}; name fields with the letters a to z, digits and underscores"
        )
