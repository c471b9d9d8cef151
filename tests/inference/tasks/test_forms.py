"""Rows in the forms that people have them in, and sentences about those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.tasks.data import DataError, Row, read_row, read_rows
from inference.tasks.lines import text_lines, whole_form


def read(data: Any, fields: list[str] | None = None) -> Row:
    return read_row(json.dumps(data), "line 3", fields)


QUESTION = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


@pytest.mark.parametrize(
    ("data", "row"),
    [
        ({"inputs": {"text": "x"}, "target": "y"}, Row({"text": "x"}, "y")),
        ({"inputs": {"text": "x", "context": None}, "target": 1}, Row({"text": "x", "context": ""}, "1")),
        ({"inputs": {"n": -3, "is": True}, "target": 0.5}, Row({"n": "-3", "is": "true"}, "0.5")),
        ({"messages": QUESTION}, Row({"question": "Why?"}, "So.")),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION], "id": 7},
            Row({"system": "Be brief.", "question": "Why?"}, "So."),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, QUESTION[1]]},
            Row({"question": "Why?"}, "So."),
        ),
        (
            {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
            Row({"question": "Why?"}, "So."),
        ),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            Row({"instruction": "Add.", "input": "1 2"}, "3"),
        ),
        ({"prompt": "Why?", "completion": "So."}, Row({"prompt": "Why?"}, "So.")),
        ({"id": 4, "sentence": "Good.", "label": 1}, Row({"sentence": "Good."}, "1")),
        ({"text": "Good.", "label": 1, "label_text": "joy"}, Row({"text": "Good."}, "joy")),
        ({"Text": "Good.", "Label": 1}, Row({"Text": "Good."}, "1")),
        ({"inputs": "Why?", "targets": "So."}, Row({"inputs": "Why?"}, "So.")),
        (
            {"instruction": "Add.", "input": "", "output": "3", "text": "Add.\n3"},
            Row({"instruction": "Add.", "input": ""}, "3"),
        ),
        ({"prompt": QUESTION[:1], "completion": QUESTION[1:]}, Row({"question": "Why?"}, "So.")),
        (
            {
                "system": "Be brief.",
                "conversations": [{"from": "Human", "value": "Why?"}, {"from": "bot", "value": "So."}],
            },
            Row({"system": "Be brief.", "question": "Why?"}, "So."),
        ),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_row_is_read_in_each_form(data: Any, row: Row):
    assert read(data) == row


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([1], 'line 3 is a list; a row is {"inputs"'),
        (
            {"inputs": {"tags": ["a"]}, "target": "y"},
            "line 3 has a list as the value of 'tags'; a value is a text",
        ),
        ({"inputs": {"text": "x"}, "target": {"a": 1}}, "line 3 has an object as the value of 'target'"),
        ({"inputs": {"text": "x"}}, "line 3 has no target; a row is"),
        ({"inputs": ["x"], "target": "y"}, "line 3 has a list as its inputs; a row is"),
        ({"text": "a book"}, "line 3 has the keys 'text'; a row is"),
        (
            {"messages": QUESTION * 2},
            "line 3 is a chat that is not one question and one answer",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            'line 3 has a turn of the role "tool"; roles are system',
        ),
        ({"messages": ["hi"]}, "line 3 has a text as a turn of its chat"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, 'line 3 has a turn of the role ["user"]'),
        (
            {"messages": [QUESTION[0], {**QUESTION[1], "tool_calls": [{"id": "1"}]}]},
            "line 3 has a turn that calls tools",
        ),
        ({"messages": [QUESTION[0], {**QUESTION[1], "weight": 0}]}, "line 3 has an answer of the weight 0"),
        ({"messages": QUESTION, "tools": [{"type": "function"}]}, "line 3 offers tools beside its chat"),
    ],
    ids=lambda value: json.dumps(value)[:40] if not isinstance(value, str) else "",
)
def test_what_is_no_row_is_told_what_it_is(data: Any, sentence: str):
    with pytest.raises(DataError) as refused:
        read(data)
    assert str(refused.value).startswith(sentence)


def test_a_key_that_some_rows_leave_out_is_empty_there():
    assert read({"instruction": "Add.", "output": "3"}, ["instruction", "input"]).inputs["input"] == ""


def test_a_field_that_comes_later_is_empty_in_the_rows_before(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Add.", "output": "3"}\n{"instruction": "Add.", "input": "1 2", "output": "3"}\n')
    assert [row.inputs for row in read_rows(path)] == [
        {"instruction": "Add.", "input": ""},
        {"instruction": "Add.", "input": "1 2"},
    ]


def test_fields_come_in_one_order_whatever_that_of_a_row():
    assert list(read({"inputs": {"b": "2", "a": "1"}, "target": "y"}, ["a", "b"]).inputs.items()) == [
        ("a", "1"),
        ("b", "2"),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"inputs": {"text": "x"}, "target": "y", "target": "z"}', "row gives 'target' twice"),
        ('{"inputs": {"text": "x"}, "target": NaN}', "row holds NaN, which is no number in JSON"),
    ],
)
def test_a_line_that_could_be_read_in_two_ways_or_in_none_is_refused(line: str, sentence: str):
    with pytest.raises(DataError) as refused:
        read_row(line, "row")
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_is_read_whatever_ends_its_lines_and_with_a_mark_before_it(end: str, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    rows = [json.dumps({"inputs": {"text": f"{n}\u2028\u0085x"}, "target": "y"}, ensure_ascii=False) for n in range(3)]
    path.write_bytes(b"\xef\xbb\xbf" + end.join([*rows, ""]).encode())
    assert [row.inputs["text"] for row in read_rows(path, ["text"])] == [f"{n}\u2028\u0085x" for n in range(3)]


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ('{"a": 1}'.encode("utf-16"), "UTF-16 text"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16 text"),
        (b"PAR1\x15", "a Parquet file"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"PK\x03\x04", "a zip archive"),
        (b'[{"text": "x"},', "one JSON array"),
        (b"[\n", "one JSON array"),
        (b"text,label\n", "a table of CSV or TSV"),
        (b'"text"\t"label"\n', "a table of CSV or TSV"),
        (b'"a text"\n', ""),
        (b"{\n", "JSON in which an object takes several lines"),
        (b"ARROW1\0\0", "an Arrow file"),
        ('{"a": 1}'.encode("utf-32"), "UTF-32 text"),
        (b"\xef\xbb\xbftext;label\r\n", "a table of CSV or TSV"),
        (b'{"inputs": {}}\n', ""),
        (b"joy\n", ""),
    ],
)
def test_a_file_of_another_form_is_named(raw: bytes, name: str):
    assert whole_form(raw).startswith(name)
    assert bool(name) == bool(whole_form(raw))


def test_a_separator_within_a_text_ends_no_line():
    assert text_lines("a\u2028b\u0085c\x0bd\r\ne\n") == ["a\u2028b\u0085c\x0bd", "e", ""]
