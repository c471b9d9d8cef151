"""The page of what papers claim of blends and routing: a card an experiment, from files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from loraland.evals.claims import EXPERIMENTS, cards
from loraland.evals.intervals import Interval, scale_of

CLAIM: dict[str, Any] = {
    "title": "A title of its own",
    "paper": "Somebody, 2024",
    "claim": "Chosen <b>well</b>, it answers as well.",
    "bar": "Within 2 points.",
    "verdict": "not shown",
    "arms": {
        "own": {"score": 0.573, "n": 640, "interval": [0.55, 0.6], "bytes": 921_600},
        "auto": {"score": 0.521, "n": 640, "interval": [0.5, 0.54]},
    },
    "comparisons": [{"a": "auto", "b": "own", "difference": -0.052, "low": -0.062, "high": -0.041}],
    "notes": ["20 rows of each task."],
    "machine": {"processor": "a small one", "memory": "24 GiB"},
    "date": "2026-11-30",
    "seeds": [1, 2],
    "command": "python -m tests.bench.some",
}
LOSSES = CLAIM | {
    "verdict": "refuted here",
    "arms": {"flow": {"loss": 1.25, "score": None, "n": 9, "interval": [1.2, 1.3]}},
    "comparisons": [{"a": "flow", "b": "flow", "of": "loss", "difference": 0.01, "low": -0.01, "high": 0.02}],
    "machine": "a large one",
}


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.RESULTS_DIR = tmp_path
    (tmp_path / "blends").mkdir()
    return tmp_path / "blends"


def page(client: Client) -> str:
    response = client.get("/paper/blends/")
    assert response.status_code == 200
    return response.content.decode()


def write(folder: Path, name: str, data: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(data))


def test_a_card_says_what_the_paper_says_what_was_found_and_how(client: Client, db: None, folder: Path) -> None:
    write(folder, "auto", CLAIM)
    html = page(client)
    assert "Chosen &lt;b&gt;well&lt;/b&gt;, it answers as well." in html
    assert "Within 2 points." in html
    assert 'class="claim-verdict not-shown">Not shown' in html
    assert "57.3 (55.0 to 60.0)" in html
    assert "−5.20 (−6.20 to −4.10)" in html
    assert "640 rows, 921,600 bytes" in html
    assert "a small one, 24 GiB" in html
    assert "python -m tests.bench.some" in html
    assert "https://arxiv.org/abs/2402.09997" in html


def test_losses_are_told_in_their_own_unit(client: Client, db: None, folder: Path) -> None:
    write(folder, "flow", LOSSES)
    html = page(client)
    assert "nats a token of the answers; less is better" in html
    assert "1.250 (1.200 to 1.300)" in html
    assert 'class="claim-verdict refuted-here">Refuted here' in html
    assert "intervals-dot unclear" in html


def test_what_has_not_been_run_is_named(client: Client, db: None, folder: Path) -> None:
    write(folder, "auto", CLAIM)
    html = page(client)
    assert html.count("This experiment has not been run") == len(EXPERIMENTS) - 1
    assert "results/blends/nola.json" in html


def test_nothing_measured_at_all_is_a_page_too(client: Client, db: None, settings: Any, tmp_path: Path) -> None:
    settings.RESULTS_DIR = tmp_path / "none"
    assert page(client).count("Not run yet") == len(EXPERIMENTS) + 1


def test_a_file_of_another_name_stands_last_by_its_own_title(client: Client, db: None, folder: Path) -> None:
    write(folder, "zebra", CLAIM)
    assert cards()[-1].experiment.title == "A title of its own"
    assert "Somebody, 2024" in page(client)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "flow.json could not be read (KeyError"),
        ([], "flow.json could not be read"),
        (CLAIM | {"verdict": "grand"}, "its verdict is &#x27;grand&#x27;; known are shown"),
        (CLAIM | {"arms": {"own": {"score": "high"}}}, "flow.json could not be read (ValueError"),
        (CLAIM | {"arms": {"own": {"score": float("nan")}}}, "flow.json could not be read (ValueError"),
        (CLAIM | {"arms": {"own": {"score": 0.5, "interval": [0.6, 0.4]}}}, "is said to lie from 60 to 40"),
        (CLAIM | {"arms": {"own": {"score": 1e308}}}, "write numbers"),
        (CLAIM | {"claim": "\ud800"}, "flow.json could not be read (UnicodeEncodeError"),
        (CLAIM | {"notes": "one"}, "its notes are no list"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_and_the_others_are_shown(
    client: Client, db: None, folder: Path, data: Any, words: str
) -> None:
    write(folder, "auto", CLAIM)
    write(folder, "flow", data)
    html = page(client)
    assert words in html
    assert "57.3 (55.0 to 60.0)" in html


def test_a_folder_in_place_of_a_file_is_said_too(client: Client, db: None, folder: Path) -> None:
    (folder / "flow.json").mkdir()
    assert "flow.json could not be read (Is a directory)" in page(client)


def test_what_was_measured_here_can_be_shown() -> None:
    assert [card.problem for card in cards() if card.problem] == []


def test_the_navigation_and_the_paper_lead_there(client: Client, db: None, folder: Path) -> None:
    assert '<a class="wide" href="/paper/blends/" aria-current="page">' in page(client)
    assert client.get("/paper/").content.decode().count('href="/paper/blends/"') == 2


def test_a_scale_holds_every_interval_with_room_at_both_ends() -> None:
    scale = scale_of([Interval(2.0, 1.0, 3.0), Interval(0.0, 0.0, 0.0)])
    assert 0 < scale.place(0.0) < scale.place(3.0) < 100
    assert scale.zero == scale.place(0.0)
    assert scale_of([Interval(5.0, 5.0, 5.0)]).zero is None
    assert scale_of([]).place(0.5) == 50
    assert (scale_of([Interval(99, 0, 100)], 100).low, scale_of([Interval(99, 0, 100)], 100).high) == (0, 100)
