from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import AsyncClient, Client

from inference.wire.contract import WireError
from inference.wire.protocol import ClaimCounts, EngineLoad, Heartbeat, StageLoad
from loraland import inference_client
from loraland.catalogue.models import Adapter, AdapterVersion

Publish = Callable[..., AdapterVersion]
SCORE = {"metric": "accuracy", "base": 0.25, "tuned": 0.75}
EXAMPLE = {"inputs": {"text": "hello"}, "expected": "joy"}


def names(html: str) -> list[str]:
    return re.findall(r'<h3><a href="/adapters/[\w-]+/">([^<]+)</a>', html)


@pytest.fixture
def three(publish: Publish) -> None:
    publish("emotion", digest="a", size_bytes=900_000, score=SCORE, examples=[EXAMPLE])
    publish("sums", digest="b", size_bytes=500_000, score=SCORE | {"tuned": 0.9})
    publish("queries", digest="c", size_bytes=700_000)
    for slug, category in (("emotion", "Classic NLP"), ("sums", "Math"), ("queries", "Coding")):
        Adapter.objects.filter(slug=slug).update(category=category)


def page(client: Client, query: str = "", **headers: str) -> str:
    response = client.get(f"/{query}", headers=headers)
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.usefixtures("three")
def test_every_published_adapter_has_a_card_with_what_it_is_worth(client: Client) -> None:
    html = page(client)
    assert names(html) == ["Sums", "Emotion", "Queries"]
    assert "accuracy: base 25, fine-tuned 75 of 100" in html
    assert "Not measured yet" in html


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?q=SUM", ["Sums"]),
        ("?category=coding", ["Queries"]),
        ("?q=sums&category=coding", []),
        ("", ["Sums", "Emotion", "Queries"]),
        ("?category=nonsense&sort=nonsense", ["Sums", "Emotion", "Queries"]),
        ("?sort=kind", ["Emotion", "Queries", "Sums"]),
        ("?sort=size", ["Sums", "Queries", "Emotion"]),
        ("?sort=gain", ["Sums", "Emotion", "Queries"]),
    ],
)
def test_the_address_filters_and_sorts_without_any_script(client: Client, query: str, found: list[str]) -> None:
    assert names(page(client, query)) == found


@pytest.mark.usefixtures("three")
def test_htmx_gets_the_results_alone_with_the_count_and_the_shortest_address(client: Client) -> None:
    response = client.get("/?q=sums&category=&sort=gain", headers={"HX-Request": "true", "HX-Target": "results"})
    html = response.content.decode()
    assert "<html" not in html
    assert "1 of 3 adapters" in " ".join(html.split())
    assert response["HX-Replace-Url"] == "/?q=sums"
    assert "HX-Target" in response["Vary"]


def test_what_gains_nothing_stands_in_a_section_of_its_own_with_the_reason(client: Client, publish: Publish) -> None:
    publish("sums", score=SCORE | {"tuned": 0.5})
    publish("yes", digest="b", score=SCORE | {"gain": "no clear gain", "remark": "always answering “yes” gets as much"})
    publish("worse", digest="c", score=SCORE | {"tuned": 0.2, "gain": "no clear gain"})
    publish("new", digest="d")
    helped, _, unhelped = page(client).partition("Where fine-tuning did not help")
    assert (names(helped), names(unhelped)) == (["Sums", "New"], ["Yes", "Worse"])
    assert "Always answering “yes” gets as much" in unhelped
    assert re.findall(r'class="card [^"]*fell"', helped + unhelped) == ['class="card category-other fell"']


def test_nothing_is_said_of_what_did_not_help_where_all_did(client: Client, publish: Publish) -> None:
    publish("sums", score=SCORE)
    assert "did not help" not in page(client)


@pytest.mark.usefixtures("three")
def test_a_search_without_a_match_offers_the_way_back(client: Client) -> None:
    html = page(client, "?q=%3Cscript%3Ealert")
    assert "No specialist answers to that" in html
    assert "<script>alert" not in html
    assert "Show all 3" in html


@pytest.mark.django_db
def test_an_empty_catalogue_teaches_how_to_import(client: Client) -> None:
    assert "python manage.py import_adapter" in page(client)


@pytest.mark.usefixtures("three")
def test_an_adapter_of_another_base_is_listed_last_with_the_reason(client: Client) -> None:
    Adapter.objects.filter(slug="emotion").update(base="Mistral-7B-v0.1")
    html = page(client)
    assert names(html)[-1] == "Emotion"
    assert "Made for Mistral-7B-v0.1" in html


def test_versions_that_are_not_published_are_not_shown(client: Client, publish: Publish) -> None:
    publish("draft", status="ready")
    assert names(page(client)) == []


@pytest.mark.usefixtures("three")
def test_the_first_action_tries_the_adapter_that_gained_most_and_has_an_example(client: Client) -> None:
    assert 'href="/chat/?adapter=emotion&amp;example=0"' in page(client)


@pytest.mark.usefixtures("three")
def test_the_page_obeys_its_own_content_policy(client: Client) -> None:
    response = client.get("/")
    html = response.content.decode()
    assert "script-src 'self'" in response["Content-Security-Policy"]
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)", html)


@pytest.mark.usefixtures("three")
def test_the_number_of_queries_does_not_grow_with_the_cards(
    client: Client, publish: Publish, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(5):
        page(client)
    for number in range(20):
        publish(f"more-{number}", digest=f"{number:x}"[-1])
    with django_assert_num_queries(5):
        page(client)


# the lamp


class Workers:
    """Stands in for the wire at the seam: only its heartbeats are asked for."""

    def __init__(self, *heartbeats: Heartbeat, error: Exception | None = None) -> None:
        self._heartbeats, self._error = list(heartbeats), error

    async def heartbeats(self, base: str) -> list[Heartbeat]:
        if self._error:
            raise self._error
        return self._heartbeats


async def lamp(wire: Any, shown: str = "") -> str:
    with inference_client.plugged(wire):
        response = await AsyncClient().get("/workers/lamp/", {"shown": shown})
    assert response["Cache-Control"] == "private, no-cache"
    return " ".join(response.content.decode().split())


@pytest.mark.django_db(transaction=True)
async def test_the_lamp_tells_each_state_of_the_workers() -> None:
    loading = Heartbeat("one", "base", ready=False)
    assert "No worker has reported yet" in await lamp(Workers())
    assert "The base model is loading" in await lamp(Workers(loading))
    assert "Nobody is waiting" in await lamp(Workers(loading, Heartbeat("two", "base", ready=True)))
    assert "Redis does not answer" in await lamp(Workers(error=WireError("refused")))


@pytest.mark.django_db(transaction=True)
async def test_the_lamp_shows_the_adapters_on_the_device_by_name() -> None:
    for slug, digest in (("sums", "a"), ("gone", "b")):
        adapter = await Adapter.objects.acreate(slug=slug, name=slug.title(), base="x")
        version = await AdapterVersion.objects.acreate(adapter=adapter, digest=digest * 64)
        await Adapter.objects.filter(slug=slug).aupdate(published=version if slug == "sums" else None)
    held = ("a" * 64, "b" * 64, "f" * 64)
    html = await lamp(Workers(Heartbeat("one", "base", ready=True, load=EngineLoad(running=2, on_device=held))))
    assert 'href="/adapters/sums/"' in html
    assert "Gone" not in html
    assert "2 answering" in html


@pytest.mark.django_db(transaction=True)
async def test_a_lamp_tells_nothing_anew_of_the_adapters_that_a_page_shows() -> None:
    adapter = await Adapter.objects.acreate(slug="sums", name="Sums", base="x")
    version = await AdapterVersion.objects.acreate(adapter=adapter, digest="a" * 64)
    await Adapter.objects.aupdate(published=version)
    beat = Heartbeat("one", "base", ready=True, load=EngineLoad(running=2, on_device=("a" * 64,)))
    whole = await lamp(Workers(beat))
    key = re.search(r'data-key="(\w+)"', whole)[1]
    brief = await lamp(Workers(beat), shown=key)
    assert f'data-key="{key}" data-is-shown' in brief
    assert "2 answering" in brief
    assert "Sums" not in brief
    await Adapter.objects.aupdate(name="Differences")
    assert "Differences" in await lamp(Workers(beat), shown=key)


@pytest.mark.django_db(transaction=True)
async def test_a_lamp_that_has_not_changed_is_not_sent_again_and_brings_its_emblems() -> None:
    adapter = await Adapter.objects.acreate(slug="sums", name="Sums", base="x")
    version = await AdapterVersion.objects.acreate(adapter=adapter, digest="a" * 64)
    await Adapter.objects.aupdate(published=version)
    busy = Heartbeat("one", "base", ready=True, load=EngineLoad(running=2, on_device=("a" * 64,)))
    with inference_client.plugged(Workers(busy)):
        first = await AsyncClient().get("/workers/lamp/")
        assert b'<svg class="emblem category-other"' in first.content
        again = await AsyncClient().get("/workers/lamp/", headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    with inference_client.plugged(Workers(Heartbeat("one", "base", ready=True))):
        changed = await AsyncClient().get("/workers/lamp/", headers={"If-None-Match": first["ETag"]})
    assert changed.status_code == 200


@pytest.mark.django_db(transaction=True)
async def test_the_workers_page_is_a_page_and_tells_strangers_no_more_than_the_lamp(settings: Any) -> None:
    claims = ClaimCounts(hits=41, misses=3, stolen=2)
    load = EngineLoad(stages=(StageLoad(0, 19, 700 * 1024**2), StageLoad(19, 30, 500 * 1024**2)))
    worker = Heartbeat("worker-7", "base", ready=True, fingerprint="bf16/secret", claims=claims, load=load)
    with inference_client.plugged(Workers(worker)):
        inside = (await AsyncClient().get("/workers/")).content.decode()
        settings.INTERNAL_ADDRESSES = ()
        outside = (await AsyncClient().get("/workers/")).content.decode()
    for html in (inside, outside):
        assert "<!doctype html>" in html
        assert "Nobody is waiting" in html
    assert "worker-7" in inside
    assert "worker-7" not in outside
    assert "bf16/secret" not in outside
    assert "<td>41, 3, 2</td>" in inside
    assert "<br>layers 20 to 30: 500.0\xa0MB</td>" in inside


@pytest.mark.usefixtures("three")
def test_pages_are_compressed_and_every_emblem_is_drawn_once(client: Client) -> None:
    response = client.get("/", headers={"Accept-Encoding": "gzip"})
    assert response["Content-Encoding"] == "gzip"
    html = gzip.decompress(response.content).decode()
    assert html.count('<symbol id="emblem-sums"') == html.count('href="#emblem-sums"') == 1
