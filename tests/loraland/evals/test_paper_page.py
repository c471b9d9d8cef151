"""The paper's table to explore, beside our own measurements."""

from __future__ import annotations

import re

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


def page(client: Client, query: str = "") -> str:
    response = client.get(f"/paper/{query}")
    assert response.status_code == 200
    return response.content.decode()


def test_it_opens_on_the_model_of_the_published_adapters_with_a_dumbbell_for_each_task(client: Client) -> None:
    html = page(client)
    assert len(re.findall(r'class="dumbbell["\s]', html)) == 31
    assert "rouge: base 4, fine-tuned 48 of 100, GPT-3.5 37, GPT-4 37" in html


def test_a_task_shows_all_ten_models_the_best_first(client: Client) -> None:
    html = page(client, "?task=viggo")
    models = re.findall(r'scope="row" class="board-task"><span><a href="\?model=([\w.-]+)"', html)
    assert len(models) == 10
    assert models[0] == "mistral-7b-instruct"


@pytest.mark.parametrize(("value", "cell"), [("base", ">4.4<"), ("lift", ">+43.9<"), ("gpt4", ">+10.9<")])
def test_all_models_at_once_show_the_value_that_is_asked_for(client: Client, value: str, cell: str) -> None:
    assert cell in page(client, f"?model=all&value={value}")


def test_unknown_words_in_the_address_count_as_none(client: Client) -> None:
    html = page(client, "?model=llama-9&task=cooking&value=joy")
    assert '<option value="mistral-7b" selected>' in html
    assert html.count("selected") == 2


def test_htmx_gets_the_table_alone(client: Client) -> None:
    response = client.get("/paper/?model=phi-2&task=&value=tuned", headers={"HX-Target": "table"})
    assert "<html" not in response.content.decode()
    assert response["HX-Replace-Url"] == "/paper/?model=phi-2"


@pytest.mark.usefixtures("board")
def test_ours_stands_beside_the_papers_task_of_the_same_name(client: Client) -> None:
    assert re.search(r'href="/leaderboard/dbpedia/">20\.0 → <strong>95\.0', page(client))
    assert "Ours: SmolLM2-135M-Instruct" in page(client, "?task=dbpedia")
    assert "Ours: SmolLM2-135M-Instruct" not in page(client, "?task=drop")


def test_the_totals_that_do_not_follow_are_named(client: Client) -> None:
    html = page(client)
    assert "The summary counts 224 of 310; the table has 194 strictly above, 204 with ties." in html
    assert "prints 0.656; the table’s 31 scores average 0.6291" in html
