from __future__ import annotations

import functools
import html as markup
import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from django.test import Client

from loraland.catalogue import snippets
from loraland.catalogue.models import Adapter, AdapterVersion

Publish = Callable[..., AdapterVersion]
PAIR: dict[str, Any] = {
    "template": "{question} in {columns}, not {other}\n### SQL",
    "fields": [{"name": "columns"}, {"name": "question"}],
    "examples": [{"inputs": {"columns": "it's, b", "question": 'who "won"?'}, "expected": "SELECT 1"}],
}


def read(client: Client, slug: str) -> str:
    response = client.get(f"/adapters/{slug}/")
    assert response.status_code == 200
    return response.content.decode()


def test_the_page_shows_the_whole_digest_and_the_arithmetic(client: Client, publish: Publish) -> None:
    publish("sums", digest="b", rank=8, lora_alpha=16, target_modules=["q_proj"], num_parameters=460_800)
    page = read(client, "sums")
    assert "b" * 64 in page
    assert "× 2<" in page
    assert "<code>q_proj</code>" in page
    assert "461 K" in page


def test_the_gain_is_shown_with_its_interval_and_the_rows_it_was_measured_on(client: Client, publish: Publish) -> None:
    score = {"metric": "exact_match", "base": 0.1, "tuned": 0.81, "low": 0.77, "high": 0.85, "n": 300}
    publish("sums", score=score | {"base_prompt": "four examples"})
    page = " ".join(read(client, "sums").split())
    assert "lies from 77.0 to 85.0" in page
    assert "300 held-out rows" in page
    assert "four worked examples" in page


def test_a_gain_that_may_be_chance_says_so(client: Client, publish: Publish) -> None:
    publish("sums", score={"metric": "accuracy", "base": 0.5, "tuned": 0.52, "gain": "no clear gain"})
    assert "No clear gain:</strong> the difference may be chance." in read(client, "sums")
    publish(
        "worse", score={"metric": "accuracy", "base": 0.5, "tuned": 0.3, "gain": "no clear gain", "remark": "lower"}
    )
    assert "<strong>Lower.</strong>" in read(client, "worse")


def test_examples_lead_to_the_chat_filled_in_and_the_base_is_one_click_away(client: Client, publish: Publish) -> None:
    publish("sql", **PAIR)
    page = read(client, "sql")
    assert 'href="/chat/?adapter=sql&amp;example=0"' in page
    assert 'href="/compare/?columns=sql,base"' in page


def test_only_the_fields_of_the_template_are_marked(client: Client, publish: Publish) -> None:
    publish("sql", **PAIR)
    assert re.findall(r"<mark>([^<]+)</mark>", read(client, "sql")) == ["{question}", "{columns}"]


def test_what_an_owner_wrote_is_shown_as_text(client: Client, publish: Publish) -> None:
    publish("sql", **PAIR | {"template": "<script>alert(1)</script>{columns}{question}"})
    Adapter.objects.update(description="<img src=x onerror=alert(1)>", summary="<b>bold</b>", category="<i>")
    page = read(client, "sql")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_a_restricted_data_set_is_marked(client: Client, publish: Publish) -> None:
    publish("sums")
    Adapter.objects.update(dataset={"name": "tweets", "license": "CC BY-NC 4.0", "restricted": True})
    assert "Restricted use" in read(client, "sums")


@pytest.mark.parametrize(("source", "is_linked"), [("https://example.org/rows", True), ("javascript:alert(1)", False)])
def test_only_a_web_address_of_a_data_set_is_a_link(
    client: Client, publish: Publish, source: str, is_linked: bool
) -> None:
    publish("sums")
    Adapter.objects.update(dataset={"name": "tweets", "source": source})
    page = read(client, "sums")
    assert source in page
    assert (f'href="{source}"' in page) is is_linked


def test_an_adapter_of_another_base_says_why_it_cannot_answer(client: Client, publish: Publish) -> None:
    publish("sql", base="Mistral-7B-v0.1", **PAIR)
    page = read(client, "sql")
    assert "Made for Mistral-7B-v0.1" in page
    assert "/chat/?adapter=sql" not in page
    assert "/v1/chat" not in page


def test_older_versions_are_listed_and_rejected_ones_are_not(client: Client, publish: Publish) -> None:
    publish("sums", digest="b", status="retired")
    publish("sums", digest="c", status="rejected")
    publish("sums", digest="a")
    page = read(client, "sums")
    assert "b" * 12 in page
    assert "c" * 12 not in page


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/adapters/nobody/", "/adapters/draft/", "/no/such/page/"])
def test_what_is_not_there_is_a_designed_404(client: Client, publish: Publish, path: str) -> None:
    publish("draft", status="ready")
    response = client.get(path)
    assert response.status_code == 404
    assert "Nobody lives at this address" in response.content.decode()


# snippets


def body_of(command: str) -> dict[str, Any]:
    words = shlex.split(command.replace("\\\n", " "))
    body: dict[str, Any] = json.loads(words[words.index("-d") + 1])
    return body


def sent_by(code: str, monkeypatch: pytest.MonkeyPatch) -> httpx.Request:
    """Run a Python snippet with the real `openai` package; the request that it sends."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        message = {"role": "assistant", "content": "joy"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx.Response(
            200, json={"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(openai, "OpenAI", functools.partial(openai.OpenAI, http_client=client))
    monkeypatch.setenv("LORALAND_API_KEY", "ll_key")
    exec(code, {})
    return requests[0]


@pytest.mark.parametrize(
    "fields", [PAIR, {"examples": [{"inputs": {"tweet": 'it\'s \\ "so"\nfine'}}], "fields": [{"name": "tweet"}]}, {}]
)
def test_both_snippets_send_the_same_request(
    publish: Publish, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish("sql", **fields)
    request = sent_by(snippets.python(version, "http://site.test"), monkeypatch)
    sent = {key: value for key, value in json.loads(request.content).items() if value is not None}
    command = snippets.curl(version, "http://site.test")
    assert sent == body_of(command)
    assert sent["model"] == "sql"
    assert str(request.url) == shlex.split(command)[1] == "http://site.test/v1/chat/completions"


def test_the_page_shows_the_snippets_for_this_site(client: Client, publish: Publish) -> None:
    version = publish("sql", **PAIR)
    page = markup.unescape(read(client, "sql"))
    assert snippets.curl(version, "http://testserver") in page
    assert snippets.python(version, "http://testserver") in page
