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
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
    (b"PAR1", f"a Parquet file; `{CONVERT}` makes lines of JSON of it"),
    (b"\x1f\x8b", f"a gzip archive; unpack it, or let `{CONVERT}` do it"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
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
    if head and not head.startswith((b"{", b"[", b'"')) and _is_header(head):
        return f"a table of CSV or TSV; `{CONVERT}` makes lines of JSON of it"
    return ""


def _is_header(line: bytes) -> bool:
    """Whether `line` names the columns of a table: some words between commas, semicolons or tabs."""
    names = [name.strip(b' "') for name in line.replace(b";", b",").replace(b"\t", b",").split(b",")]
    return len(names) > 1 and all(name and len(name) < 60 for name in names)
