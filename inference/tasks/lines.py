"""Lines of JSON as files hold them: they end at a line feed, a carriage return, or both, and nowhere else.

No text in JSON holds either, while it may hold what else splits lines for Python, such as U+2028.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

MARK: Final = b"\xef\xbb\xbf"
"""The byte order mark that some editors put before UTF-8."""
CONVERT: Final = "python -m inference.tasks.convert FILE rows.jsonl"
_WHOLE: Final = (
    (b"\xff\xfe\0\0", "UTF-32 text; save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
    (b"PAR1", f"a Parquet file; `{CONVERT}` makes lines of JSON of it"),
    (b"\x1f\x8b", f"a gzip archive; unpack it, or let `{CONVERT}` do it"),
    (b"PK\x03\x04", "a zip archive, as Excel's files are too; unpack it, or save the table as CSV"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"ARROW1", "an Arrow file; save it as Parquet, CSV or lines of JSON"),
    (b"SQLite format 3", "an SQLite database; export its table as CSV"),
    (b"%PDF", "a PDF; rows are lines of JSON"),
)


def text_lines(text: str) -> list[str]:
    """The lines of `text`, without their ends."""
    return re.split("\r\n|\r|\n", text)


def parts_of(line: bytes) -> list[bytes]:
    """The lines in what lies between two line feeds, with their ends."""
    return re.split(rb"(?<=\r)(?=[^\r\n])", line)


def without_mark(lines: Iterable[bytes]) -> Iterator[bytes]:
    """`lines` without the byte order mark of the first."""
    for number, line in enumerate(lines):
        yield line.removeprefix(MARK) if number == 0 else line


def whole_form(first: bytes) -> str:
    """What the file is that begins with the line `first`, where it is none of lines of JSON; else empty."""
    for magic, name in _WHOLE:
        if first.startswith(magic):
            return name
    head = first.removeprefix(MARK).strip()
    if b"\0" in head[:8]:
        return "UTF-16 text; save it as UTF-8"
    if head == b"[" or head.startswith((b"[{", b"[ {")):
        return f"one JSON array; `{CONVERT}` makes lines of JSON of it"
    if head == b"{":
        return f"JSON in which an object takes several lines; `{CONVERT}` gives each a line of its own"
    if head and not head.startswith((b"{", b"[")) and _is_header(head):
        return f"a table of CSV or TSV; `{CONVERT}` makes lines of JSON of it"
    return ""


def _is_header(line: bytes) -> bool:
    """Whether `line` names the columns of a table: some words between commas, semicolons or tabs."""
    names = [name.strip(b' "') for name in line.replace(b";", b",").replace(b"\t", b",").split(b",")]
    return len(names) > 1 and all(name and len(name) < 60 for name in names)
