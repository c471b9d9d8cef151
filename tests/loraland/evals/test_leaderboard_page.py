"""The leaderboard: every number with its interval, sorted and filtered by the address, answers one click away."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable

import pytest
from asgiref.sync import async_to_sync
from django.http import StreamingHttpResponse
from django.test import Client

from loraland.catalogue.models import AdapterVersion
from loraland.evals.models import Run

Measured = Callable[..., Run]
SUBJECTS = ("base", "adapter")


def page(client: Client, address: str, **headers: str) -> str:
    response = client.get(address, headers=headers)
    assert response.status_code == 200
    body = async_to_sync(sent)(response) if response.streaming else response.content
    return body.decode()


async def sent(response: StreamingHttpResponse) -> bytes:
    return b"".join([part async for part in response])


def tasks(html: str) -> list[str]:
    return re.findall(r'href="/leaderboard/(\w+)/">', html)


@pytest.mark.usefixtures("board")
def test_a_row_shows_base_and_fine_tuned_with_intervals_and_the_gain(client: Client) -> None:
    html = page(client, "/leaderboard/?q=emotion")
    assert "accuracy: base 25, fine-tuned 75 of 100" in html
    for figure in ("73.0–77.0", "+50.0", ">100<"):
        assert figure in html


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["dbpedia", "tweet_emotion", "gsm8k"]),
        ("?sort=-gain", ["gsm8k", "tweet_emotion", "dbpedia"]),
        ("?sort=base", ["tweet_emotion", "dbpedia", "gsm8k"]),
        ("?sort=task", ["tweet_emotion", "dbpedia", "gsm8k"]),
        ("?sort=-task", ["gsm8k", "dbpedia", "tweet_emotion"]),
        ("?category=math", ["gsm8k"]),
        ("?verdict=gain", ["dbpedia", "tweet_emotion"]),
        ("?verdict=no+clear+gain", ["gsm8k"]),
        ("?q=TWEETS", ["tweet_emotion"]),
        ("?sort=nonsense&category=nonsense&verdict=nonsense", ["dbpedia", "tweet_emotion", "gsm8k"]),
    ],
)
def test_the_address_sorts_and_filters_without_any_script(client: Client, query: str, found: list[str]) -> None:
    assert tasks(page(client, f"/leaderboard/{query}")) == found


@pytest.mark.usefixtures("board")
def test_where_several_bases_were_measured_each_row_names_its_own_and_one_can_be_chosen(
    client: Client, measured: Measured
) -> None:
    alone = page(client, "/leaderboard/")
    assert 'name="base"' not in alone
    assert "beside the same base model, SmolLM2-135M-Instruct, asked" in alone
    measured("viggo", "base", 0.1, base="Mistral-7B-v0.1")
    measured("viggo", "adapter", 0.8, base="Mistral-7B-v0.1")
    html = page(client, "/leaderboard/")
    assert "beside its own base model, asked" in html
    assert html.count('<span class="board-kind base-name">') == 4
    assert html.count('name="base"') == 3
    assert tasks(page(client, "/leaderboard/?base=mistral-7b-V0.1")) == ["viggo"]
    assert "viggo" in page(client, "/leaderboard.csv?base=Mistral-7B-v0.1")


@pytest.mark.usefixtures("board")
def test_htmx_gets_the_rows_alone_and_the_address_to_show(client: Client) -> None:
    response = client.get("/leaderboard/?q=&category=math&sort=gain", headers={"HX-Target": "results"})
    html = response.content.decode()
    assert "<html" not in html
    assert "1 of 3" in html
    assert response["HX-Replace-Url"] == "/leaderboard/?category=math"


@pytest.mark.usefixtures("board")
def test_a_header_turns_the_order_round_and_keeps_the_filter(client: Client) -> None:
    html = page(client, "/leaderboard/?category=math&sort=base")
    assert 'aria-sort="descending"' in html
    assert "?category=math&amp;sort=-base" in html
    assert '<a id="by-base"' in html  # by which whoever pressed it by the keyboard stands on it still


@pytest.mark.usefixtures("board")
def test_the_average_gain_is_told_over_clear_gains_and_over_all(client: Client) -> None:
    html = page(client, "/leaderboard/")
    assert re.search(r"2 clear gains.*?\+62\.5", html, re.DOTALL)
    assert re.search(r"All 3 measured.*?\+42\.0", html, re.DOTALL)


@pytest.mark.usefixtures("board")
def test_a_gain_over_too_few_rows_is_shown_and_stays_out_of_the_averages(client: Client, measured: Measured) -> None:
    before = page(client, "/leaderboard/")
    for subject, score in (("base", 0.1), ("adapter", 0.2)):
        measured("moods", subject, score, n=16)
    html = page(client, "/leaderboard/")
    assert "moods" in tasks(html)
    assert html.count("not in the averages") == 1
    headline = re.compile(r'<dl class="headline.*?</dl>', re.DOTALL)
    assert headline.search(html).group() == headline.search(before).group()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tuned", "surely", "answer", "remark"),
    [
        (0.68, 0.25, "yes", "always answering “yes” gets as much"),
        (0.68, 0.25, "", "one answer to every row gets as much"),
        (0.68, -0.02, "yes", "no clear gain"),
        (0.30, -0.1, "yes", "lower than the base"),
    ],
)
def test_what_gains_nothing_is_told_why(
    client: Client, measured: Measured, tuned: float, surely: float, answer: str, remark: str
) -> None:
    measured("boolq", "base", 0.34)
    measured("boolq", "constant", 0.63, answer=answer)
    gains = {"base": {"low": surely, "high": 0.5}}
    measured("boolq", score=tuned, verdict="no clear gain", gains=gains)
    assert f"<strong>{remark}</strong>" in page(client, "/leaderboard/")
    assert f"{remark[0].upper()}{remark[1:]}" in page(client, "/leaderboard/boolq/")


def test_only_answers_that_can_be_read_are_linked(client: Client, measured: Measured) -> None:
    for task in ("dbpedia", "viggo"):
        for subject in SUBJECTS:
            measured(task, subject, n=300)
    drawn = {subject: measured("viggo", subject, n=1, split="drawn", samples=[("a", "a")]) for subject in SUBJECTS}
    whole = measured("snli", n=2, samples=[("a", "a"), ("b", "c")])
    measured("snli", "base", n=2)
    html = page(client, "/leaderboard/")
    linked = set(re.findall(r'href="(/runs/[^"]+)">Answers', html))
    assert linked == {drawn["adapter"].get_absolute_url(), whole.get_absolute_url()}
    assert re.findall(r"/runs/[^\"]+", page(client, "/leaderboard/dbpedia/")) == []
    assert set(re.findall(r"/runs/[^\"]+", page(client, "/leaderboard/viggo/"))) == {
        run.get_absolute_url() for run in drawn.values()
    }


def test_drawn_rows_say_what_they_are_and_show_the_base_beside(client: Client, measured: Measured) -> None:
    base = measured("viggo", "base", split="drawn", n=1, samples=[("What a game!", "It is good.")])
    gains = {"base": {"run": str(base.pk)}}
    run = measured("viggo", split="drawn", n=1, gains=gains, samples=[("It is good.", "It is good.")])
    html = page(client, run.get_absolute_url())
    assert "on 1 test rows drawn by seed 0" in html
    assert "Nobody chose these rows" in html
    assert "The base, 0 of 100" in html
    assert "What a game!" in html


def test_drawn_rows_never_count_as_a_score(client: Client, measured: Measured, board: None) -> None:
    before = page(client, "/leaderboard.csv")
    measured("dbpedia", "base", 0.5, split="drawn")
    measured("dbpedia", score=0.5, split="drawn")
    assert page(client, "/leaderboard.csv") == before


@pytest.mark.usefixtures("board")
def test_a_newer_run_takes_the_place_of_an_older(client: Client, measured: Measured) -> None:
    measured(score=0.8)
    html = page(client, "/leaderboard/?q=emotion")
    assert tasks(html) == ["tweet_emotion"]
    assert "fine-tuned 80" in html


@pytest.mark.usefixtures("board")
def test_a_first_look_at_a_few_rows_does_not_take_the_place_of_a_whole_run(client: Client, measured: Measured) -> None:
    measured("tweet_emotion", "base", 0.0, n=5, rows_digest="x" * 64)
    measured("tweet_emotion", "adapter", 1.0, n=5, rows_digest="x" * 64)
    assert "fine-tuned 75" in page(client, "/leaderboard/?q=emotion")


@pytest.mark.usefixtures("board")
def test_runs_over_other_rows_are_not_compared(client: Client, measured: Measured) -> None:
    measured("viggo", "base", 0.1, rows_digest="x" * 64)
    measured("viggo", "adapter", 0.9, rows_digest="y" * 64)
    assert "viggo" not in tasks(page(client, "/leaderboard/"))


def test_an_adapter_with_the_measured_weights_lends_its_emblem(
    client: Client, board: None, publish: Callable[..., AdapterVersion]
) -> None:
    without = page(client, "/leaderboard/?q=emotion")
    publish("tweet_emotion", digest="b")
    other = page(client, "/leaderboard/?q=emotion")
    publish("tweet_emotion", digest="a")
    assert ["emblem-disc" in html for html in (without, other, page(client, "/leaderboard/?q=emotion"))] == [
        False,
        False,
        True,
    ]


@pytest.mark.usefixtures("board")
def test_the_numbers_can_be_had_as_csv_and_json(client: Client) -> None:
    rows = list(csv.DictReader(page(client, "/leaderboard.csv?sort=gain").splitlines()))
    assert [row["task"] for row in rows] == ["dbpedia", "tweet_emotion", "gsm8k"]
    assert (rows[0]["base"], rows[0]["tuned"], rows[0]["gain"]) == ("0.2", "0.95", "0.75")
    (row,) = json.loads(page(client, "/leaderboard.json?category=math"))["entries"]
    assert (row["task"], row["verdict"], row["constant"]) == ("gsm8k", "no clear gain", None)


@pytest.mark.usefixtures("board")
def test_another_model_has_a_mark_and_a_column_once_it_is_measured(client: Client, measured: Measured) -> None:
    assert "Other model" not in page(client, "/leaderboard/")
    measured("dbpedia", "reference", 0.97, base="big-1")
    html = page(client, "/leaderboard/")
    assert "Other model" in html
    assert "fine-tuned 95 of 100, big-1 97" in html


@pytest.mark.django_db
def test_an_empty_leaderboard_says_how_to_fill_it(client: Client) -> None:
    assert "manage.py import_results" in page(client, "/leaderboard/")
    assert page(client, "/leaderboard.csv") == ""


def test_a_task_shows_who_answered_and_how_the_base_was_asked(client: Client, board: None, measured: Measured) -> None:
    measured("dbpedia", "constant", 0.08)
    measured("dbpedia", "base", 0.31, split="validation", prompt="chat of four examples")
    html = page(client, "/leaderboard/dbpedia/")
    assert "the best constant answer 8" in html
    assert "The best constant answer" in html
    assert "in a chat that shows four worked examples" in html
    assert client.get("/leaderboard/cooking/").status_code == 404


def test_a_run_shows_its_answers_and_can_be_narrowed_to_the_missed(client: Client, measured: Measured) -> None:
    run = measured(samples=[("joy", "joy"), ("<b>fear</b>", "anger")])
    html = page(client, f"/runs/{run.pk}/")
    assert html.count('class="plate sample"') == 2
    assert "&lt;b&gt;fear&lt;/b&gt;" in html
    missed = page(client, f"/runs/{run.pk}/?show=missed")
    assert "Row 1" in missed
    assert "Row 0" not in missed


def test_a_run_of_which_some_answers_came_along_says_how_many(client: Client, measured: Measured) -> None:
    run = measured(n=300, samples=[("joy", "joy")])
    assert "1 of the 300 answers came with the repository" in page(client, f"/runs/{run.pk}/")


def test_a_run_without_answers_says_why(client: Client, measured: Measured) -> None:
    run = measured(source="training")
    assert "Only the sum was kept" in page(client, f"/runs/{run.pk}/")


def test_an_unfinished_run_is_not_shown(client: Client, db: None) -> None:
    run = Run.objects.create(task="viggo", metric="rouge_l", subject="base", base="m", n=2)
    assert client.get(f"/runs/{run.pk}/").status_code == 404
