"""Foreign data sets become lines of JSON by one command."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from inference.tasks.convert import main


def converted(source: Path, raw: bytes, *options: str) -> list[dict[str, object]]:
    source.write_bytes(raw)
    out = source.with_name("out.jsonl")
    assert main([str(source), str(out), *options]) == 0
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


ROW = {"inputs": {"text": "good, très"}, "target": "1"}


@pytest.mark.parametrize(
    ("name", "raw", "options"),
    [
        ("a.json", json.dumps([{"text": "good, très", "label": 1}]).encode(), ()),
        ("a.csv", 'id,text,label\n7,"good, très",1\n'.encode(), ()),
        ("a.csv", 'text;grade\n"good, très";1\n'.encode("utf-16"), ()),
        ("a.tsv", "label\ttext\n1\tgood, très\n".encode(), ()),
        ("a.csv", 'grade,text\n1,"good, très"\n'.encode(), ("--target", "grade")),
        ("a.csv", '"text";"Label_Text";"label"\n"good, très";"1";"0"\n'.encode(), ()),
        ("a.json", b'{\n "text": "good, tr\\u00e8s",\n "label": 1\n}\n', ()),
        ("a.jsonl.gz", gzip.compress(json.dumps({"text": "good, très", "label": "1"}).encode()), ()),
    ],
)
def test_each_form_becomes_rows(name: str, raw: bytes, options: tuple[str, ...], tmp_path: Path):
    assert converted(tmp_path / name, raw, *options) == [ROW]


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "a.json"
    source.write_text('[{"text": "x", "label": 1}]')
    assert main([str(source), str(tmp_path / "out"), "--target", "grade"]) == 1
    assert capsys.readouterr().err == "error: row 1 has no grade; it has text, label\n"
    assert not (tmp_path / "out").exists()


def test_rows_get_the_same_fields_whichever_they_had(tmp_path: Path):
    raw = b'[{"prompt": "a", "output": "y"}, {"prompt": "b", "input": "z", "output": "x"}]'
    assert [row["inputs"] for row in converted(tmp_path / "a.json", raw)] == [
        {"prompt": "a", "input": ""},
        {"prompt": "b", "input": "z"},
    ]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[]", "there are no rows"),
        (b"PAR1 cut off", "a is damaged: it was cut off"),
        (b'text,label\n"a,x\n', "a is damaged"),
        (b"text,label\na\n", "line 2 has fewer cells than there are columns"),
        (b"text,text,label\na,b,x\n", "two columns have one name"),
        (b"[3", "is not JSON from line 1, column 3 on"),
    ],
)
def test_a_file_that_is_damaged_is_told(raw: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a").write_bytes(raw)
    assert main([str(tmp_path / "a"), str(tmp_path / "out")]) == 1
    assert words in capsys.readouterr().err


def test_a_row_with_more_cells_than_columns_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "a.csv"
    source.write_text("text,label\ngood, very,1\n")
    assert main([str(source), str(tmp_path / "out")]) == 1
    assert "line 2 has more cells than there are columns" in capsys.readouterr().err
