"""`python -m inference.tasks.convert IN OUT`: a JSON array, a table or a Parquet file as lines of JSON.

Each row becomes ``{"inputs": {field: text}, "target": text}``. The answer of a table is its column target, label,
answer, output, completion, response or summary, else the last one; `--target NAME` names another. A file whose name
ends in .gz is unpacked. Parquet needs the package pyarrow.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.tasks.data import DataError, Row, evened, row_of
from inference.tasks.forms import IDENTITIES, answer_among
from inference.tasks.lines import MARK, text_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert what the command line names; 0 when it stands, 1 with a sentence when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m inference.tasks.convert", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--target", help="the column, or key, of the answer")
    options = parser.parse_args(arguments)
    csv.field_size_limit(2**30)
    try:
        rows = _converted(_rows(options.source, options.target), options.target)
        lines = [json.dumps({"inputs": row.inputs, "target": row.target}, ensure_ascii=False) + "\n" for row in rows]
        options.out.write_text("".join(lines), encoding="utf-8")
    except (DataError, OSError, EOFError, csv.Error, ValueError) as error:
        print(f"error: {_explained(error, options.source)}", file=sys.stderr)
        return 1
    print(f"{len(lines)} rows in {options.out}")
    return 0


def _explained(error: Exception, source: Path) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {error.filename}"
    if isinstance(error, DataError | OSError):
        return str(error)
    return f"{source.name} is damaged: it was cut off, or a quote in it has no end"


def _converted(found: Iterator[Any], target: str | None) -> tuple[Row, ...]:
    """Each of `found` as a row, all with the same fields. Raises `DataError`."""
    rows: list[Row] = []
    for number, data in enumerate(found, 1):
        data, name = _with_target(data, number, target), f"row {number}"
        rows.append(row_of(data, name, list(rows[-1].inputs) if rows else None, may_grow=True))
    if not rows:
        raise DataError("there are no rows in the file")
    return evened(rows)


def _with_target(data: Any, number: int, target: str | None) -> Any:
    if target is not None and isinstance(data, dict) and "inputs" not in data:
        if target not in data:
            raise DataError(f"row {number} has no {target}; it has {', '.join(map(str, data))}")
        names = [name for name in data if name != target and name not in IDENTITIES]
        return {"inputs": {name: data[name] for name in names}, "target": data[target]}
    return data


def _rows(path: Path, target: str | None) -> Iterator[Any]:
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    if raw.startswith(b"PAR1"):
        return _parquet(raw)
    text = _text(raw)
    if text.lstrip().startswith("["):
        return iter(_json(text, path.name))
    if text.lstrip().startswith("{"):
        return _objects(text, path.name)
    return _table(text, target)


def _objects(text: str, name: str) -> Iterator[Any]:
    """The objects in `text`, of which each has a line of its own, or all stand one behind the other."""
    if text_lines(text.lstrip())[0].strip() != "{":
        yield from (_json(line, f"{name}, line {n}") for n, line in enumerate(text_lines(text), 1) if line.strip())
        return
    place, decoder = 0, json.JSONDecoder()
    while rest := text[place:].lstrip():
        place = len(text) - len(rest)
        try:
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} is not JSON from line {text.count(chr(10), 0, place) + 1} on") from error
        yield found


def _text(raw: bytes) -> str:
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        return raw.removeprefix(MARK).decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"the file is not {encoding.upper()} text; save it as UTF-8") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" from line {error.lineno}, column {error.colno} on" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{where} is not JSON{place}") from error


def _table(text: str, target: str | None) -> Iterator[Mapping[str, Any]]:
    first = text_lines(text)[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    names = [name for name in rows.fieldnames or () if name not in IDENTITIES]
    if len(names) < 2:
        raise DataError(f"the first line is {first[:80]!r}; it must name two columns or more")
    if target is not None and target not in names:
        raise DataError(f"there is no column {target}; there are {', '.join(names)}")
    if len(set(names)) < len(names):
        raise DataError(f"two columns have one name; the columns are {', '.join(names)}")
    last = names[-1] if target is None and answer_among(names) is None else None
    for row in rows:
        if None in row or None in row.values():
            many = "more" if None in row else "fewer"
            raise DataError(f"line {rows.line_num} has {many} cells than there are columns; quote what holds a comma")
        if last is None:
            yield row
        else:
            yield {"inputs": {name: row[name] for name in names if name != last}, "target": row[last]}


def _parquet(raw: bytes) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("a Parquet file needs the package pyarrow; run `pip install pyarrow`") from error
    return iter(pyarrow.parquet.read_table(io.BytesIO(raw)).to_pylist())


if __name__ == "__main__":
    sys.exit(main())
