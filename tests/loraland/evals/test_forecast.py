"""Forecasting the gain of a new data set, on the page of correlations and in the admin after an upload."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from loraland.bases import Base, default
from loraland.evals.forecast import forecast
from loraland.evals.heuristics import NAMES
from loraland.evals.jsonl import MOST_LINES, MOST_REASONS, examine, lines_of
from loraland.evals.models import DataSet, Run
from loraland.evals.results import write_file

Measured = Callable[..., Run]
TASKS = ("viggo", "dbpedia", "gsm8k", "conllpp", "e2e_nlg", "legal", "covid", "boolq")


def look(output: float) -> dict[str, float]:
    return {**dict.fromkeys(NAMES, 1.0), "output_mean": output}


@pytest.fixture
def described(measured: Measured, settings: Any, tmp_path: Path) -> None:
    """Eight measured tasks, whose gain falls by ten points for each doubling of their answers."""
    settings.RESULTS_DIR = tmp_path
    for index, task in enumerate(TASKS):
        write_file(task, data=look(2**index - 1))
        measured(task, "base", 0.1)
        measured(task, "adapter", 0.9 - 0.1 * index)


def lines(*rows: tuple[dict[str, str], str]) -> list[bytes]:
    return [json.dumps({"inputs": inputs, "target": target}).encode() + b"\n" for inputs, target in rows]


GOOD = lines(*(({"text": f"tweet {n}"}, ("joy", "anger")[n % 2]) for n in range(24)))


@pytest.mark.usefixtures("described")
def test_a_forecast_follows_what_the_tasks_have_in_common_with_an_error_bar() -> None:
    short, long = forecast(look(1), default()), forecast(look(63), default())
    assert short is not None
    assert long is not None
    assert short.gain > 50 > long.gain
    assert short.error < short.mean_error
    assert short.low == pytest.approx(short.gain - 1.96 * short.error)
    assert (short.tasks, math.isclose(short.high - short.low, 2 * 1.96 * short.error)) == (8, True)
    assert forecast(look(1), Base("", "Another-7B")) is None, "nothing was measured on it"


@pytest.mark.django_db
def test_without_enough_measured_tasks_there_is_no_forecast(settings: Any, tmp_path: Path) -> None:
    settings.RESULTS_DIR = tmp_path
    assert forecast(look(1), default()) is None


@pytest.mark.usefixtures("described")
def test_where_looks_tell_nothing_the_average_is_forecast(measured: Measured) -> None:
    for index, task in enumerate(TASKS):
        measured(task, "adapter", (0.9, 0.2)[index % 2], n=101)
        measured(task, "base", 0.1, n=101)
    found = forecast(look(63), default())
    assert found is not None
    assert found.error > found.mean_error
    assert found.gain == pytest.approx(45)


@pytest.mark.usefixtures("described")
def test_the_page_shows_our_correlations_beside_the_printed_and_the_models_error(client: Client) -> None:
    html = client.get("/paper/complexity/").content.decode()
    assert "over our 8 measured tasks" in html
    assert "−.69" in html
    assert "leans-down" in html
    assert "So the look of a data set tells something." in html


@pytest.mark.django_db
def test_the_page_without_measurements_says_what_to_do(client: Client, settings: Any, tmp_path: Path) -> None:
    settings.RESULTS_DIR = tmp_path
    assert "manage.py describe_data" in client.get("/paper/complexity/").content.decode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"joy\n", 'Line 25 is not JSON; a row is {"inputs"'),
        (b'{"inputs": {"text": "x"}}\n', "Line 25 has no target"),
        (*lines(({"tweet": "x"}, "joy")), "Line 25 has the fields tweet; needed: text."),
        (*lines(({"text": "x"}, " ")), "Line 25 has an empty target"),
        (*lines(({"text": "x\0"}, "joy")), "Line 25 holds a NUL"),
        (b"\xff\xfe\n", "Line 25 is not UTF-8"),
        (b"[" * 100_000 + b"\n", "Line 25 is not JSON"),
        (b'{"inputs": [[1, "x"]], "target": "joy"}\n', "Line 25 has a list as its inputs"),
        (b'{"inputs": {"text": ["x"]}, "target": "joy"}\n', "Line 25 has a list as the value of 'text'"),
        (b'{"inputs": {"\\ud800": "x"}, "target": "joy"}\n', "Line 25 has the fields ?; needed: text."),
        (*lines(({"text": "x"}, "y" * 40_000)), "Line 25 has a target of 40000 characters"),
        (b"x" * 2_000_000, "Line 25 has more than 768000 bytes"),
        (*lines(({"text": "x" * 40_000}, "joy")), "Line 25 has 40000 characters of input"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_its_fault(line: bytes, reason: str) -> None:
    found = examine([*GOOD, line])
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith(reason)


def test_good_rows_have_no_reasons_against_them_and_empty_lines_are_passed_over() -> None:
    found = examine([*GOOD, b"\n"])
    assert (found.reasons, len(found.rows), found.fields) == ([], 24, ["text"])


def test_too_few_rows_odd_field_names_and_many_faults_are_told() -> None:
    assert examine(GOOD[:5]).reasons == ["There are 5 rows; it takes 20 at least."]
    assert "name fields with the letters a to z" in examine(lines(({"a b": "x"}, "joy"))).reasons[0]
    many = examine([b"x\n"] * 30).reasons
    assert many == [
        'Line 1 is not JSON; a row is {"inputs": {"text": "…"}, "target": "…"}, and so do 19 more, among them 2, 3, 4.',
        f"So many of the first {MOST_REASONS} lines have faults that the rest was not read.",
    ]


def test_a_line_that_repeats_another_is_left_out_and_counted() -> None:
    found = examine([*GOOD, GOOD[3], GOOD[3], GOOD[7]])
    assert (found.reasons, len(found.rows), found.num_repeats) == ([], 24, 3)


def test_a_question_with_several_answers_is_kept_and_told() -> None:
    found = examine([*GOOD, *lines(({"text": "Is it?"}, "joy"), ({"text": "Is it?"}, "anger"))])
    assert (found.reasons, len(found.rows), found.num_disputed, found.disputed) == ([], 26, 1, "Is it?")
    assert examine(GOOD).num_disputed == 0


def test_two_fields_that_change_places_are_another_question() -> None:
    rows = lines(({"a": "1", "b": "2"}, "joy"))
    found = examine([*rows, b'{"inputs": {"b": "1", "a": "2"}, "target": "joy"}\n'], fewest=1)
    assert [list(row.inputs.items()) for row in found.rows] == [[("a", "1"), ("b", "2")], [("a", "2"), ("b", "1")]]


def test_a_file_of_another_form_is_told_once() -> None:
    assert examine([b"[\n", *GOOD]).reasons[0].startswith("The file is one JSON array; `python")
    assert examine('{"a": 1}\n{"a": 2}\n'.encode("utf-16").splitlines(True)).reasons == [
        "The file is UTF-16 text; save it as UTF-8."
    ]


def test_a_byte_order_mark_is_passed_over() -> None:
    found = examine([b"\xef\xbb\xbf" + GOOD[0], *GOOD[1:]])
    assert (found.reasons, len(found.rows)) == ([], 24)


def test_chats_are_read_as_questions_and_answers() -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "Yes."}]}
        for n in range(20)
    ]
    found = examine([json.dumps(row).encode() + b"\r\n" for row in rows])
    assert (found.reasons, found.fields, found.rows[3].target) == ([], ["question"], "Yes.")


def test_no_more_of_a_file_is_read_than_is_told() -> None:
    read = []

    def endless(line: bytes) -> Iterator[bytes]:
        while True:
            read.append(line)
            yield line

    for line, reason, most in (
        (b"x\n", "was not read", MOST_REASONS),
        (b"\n", "more than 400000 lines; leave out the empty ones", MOST_LINES + 1),
    ):
        read.clear()
        assert reason in examine(endless(line)).reasons[-1]
        assert len(read) == most


def test_a_file_of_one_line_is_cut_where_a_line_must_end() -> None:
    file = io.BytesIO(b"x" * 3_000_000)
    assert [len(line) for line in lines_of(file)] == [768_001] * 3 + [695_997]


@pytest.fixture
def staff(client: Client, settings: Any, tmp_path: Path, db: None) -> Client:
    settings.DATASETS_DIR = tmp_path / "datasets"
    client.force_login(User.objects.create_superuser("owner", password="x"))
    return client


def upload(client: Client, content: bytes, name: str = "Moods") -> str:
    data = {"name": name, "file": SimpleUploadedFile("rows.jsonl", content)}
    return client.post("/admin/evals/dataset/add/", data, follow=True).content.decode()


@pytest.mark.usefixtures("described")
def test_an_uploaded_data_set_is_kept_and_its_forecast_shown(staff: Client) -> None:
    html = upload(staff, b"".join(GOOD))
    data = DataSet.objects.get()
    assert (data.rows, data.fields, data.path.read_bytes()) == (24, ["text"], b"".join(GOOD))
    assert data.created_by is not None
    assert "likely gain" in html.lower()
    assert "Over 8 measured tasks, each left out in turn" in html


def test_a_bad_upload_is_refused_with_every_reason_and_nothing_is_kept(staff: Client) -> None:
    html = upload(staff, b"".join([*GOOD, b"joy\n", b"{}\n"]))
    assert "Line 25 is not" in html
    assert "Line 26 has the keys none" in html
    assert not DataSet.objects.exists()


def test_the_same_rows_are_not_kept_twice(staff: Client) -> None:
    upload(staff, b"".join(GOOD))
    assert "exactly the rows of Moods" in upload(staff, b"".join(GOOD), "Again")
    assert DataSet.objects.count() == 1


def test_without_measured_tasks_the_admin_says_why_there_is_no_forecast(staff: Client) -> None:
    assert "a forecast takes 6" in upload(staff, b"".join(GOOD))
