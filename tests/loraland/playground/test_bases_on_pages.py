"""Pages where several bases are served: a chat with each, and columns of one beside columns of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.test import Client

from inference.wire.contract import Wire
from loraland.catalogue.models import AdapterVersion
from loraland.generations.models import Generation
from loraland.playground import messages
from loraland.playground.models import Column, Conversation
from tests.loraland.playground.page import Page
from tests.loraland.scripted_worker import ScriptedWorker

OURS = site_settings.BASE_NAME
Publish = Callable[..., AdapterVersion]


@pytest_asyncio.fixture
async def both(site_wire: Wire, other_base: str, publish: Publish) -> AsyncIterator[None]:
    """A worker of each base, and an adapter of each: emotion of ours, and topic of the other."""
    await sync_to_async(publish)("emotion", "a")
    await sync_to_async(publish)("topic", "b", base=other_base)
    workers = [ScriptedWorker(site_wire, name.lower()) for name in (OURS, other_base)]
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(worker.run())
        yield
        for worker in workers:
            worker.leaving = True


async def chat(page: Page, **start: Any) -> dict[str, Any]:
    message = {"conversation": None, "adapter": "", "text": "hello there", "sampling": None} | start
    await page.say(type="start", request="r", **message)
    started = await page.hear("started", "refused")
    return started if started["type"] == "refused" else started | await page.hear("finished", "failed")


async def base_of(answer: str) -> str:
    return (await Generation.objects.aget(pk=answer)).base


@pytest.mark.django_db(transaction=True)
async def test_a_chat_stays_with_its_base(both, anna, other_base):
    async with anna.page() as page:
        first = await chat(page, adapter=f"base:{other_base}")
        again = await chat(page, conversation=first["conversation"], text="and now")
        default = await chat(page)
        adapter = await chat(page, adapter="topic")
    told = [await base_of(each["answer"]) for each in (first, again, default, adapter)]
    assert told == [other_base, other_base, OURS, other_base]
    assert (await Conversation.objects.aget(pk=first["conversation"])).base == other_base
    assert (await Conversation.objects.aget(pk=default["conversation"])).base == ""


@pytest.mark.django_db(transaction=True)
async def test_a_chat_whose_base_is_gone_is_refused_and_can_be_read(both, anna, other_base, settings):
    async with anna.page() as page:
        kept = await chat(page, adapter=f"base:{other_base}")
        settings.BASE_MODELS = (settings.BASE_MODEL,)
        refused = await chat(page, conversation=kept["conversation"])
        unknown = await chat(page, adapter=f"base:{other_base}")
    assert refused["error"] == f"The base model {other_base} does not run here; there is {OURS}."
    assert unknown["error"] == f"No base called 'base:{other_base}' is served; there is base ({OURS})."


@pytest.mark.django_db(transaction=True)
async def test_who_waits_is_told_of_which_base_no_worker_is_up(site_wire, anna, other_base):
    async with anna.page() as page:
        await page.say(
            type="start", request="r", conversation=None, adapter=f"base:{other_base}", text="hi", sampling=None
        )
        place = await page.hear("place")
    assert (place["workers"], place["base"]) == ("none", other_base)


@pytest.mark.django_db(transaction=True)
async def test_columns_of_different_bases_answer_one_prompt(both, anna, other_base):
    columns = ["emotion", "topic", "base", f"base:{other_base}"]
    async with anna.page() as page:
        await page.say(type="compare", request="c", columns=columns, text="hello there")
        compared = await page.hear("compared", "refused")
        for _ in columns:
            await page.hear("finished")
    rows = [row async for row in Column.objects.filter(comparison=compared["comparison"]).select_related("generation")]
    assert [row.generation.base for row in rows] == [OURS, other_base, OURS, other_base]
    assert [row.base for row in rows] == ["", "", "", other_base]


def test_a_column_may_be_a_base_whose_folder_has_a_name_beyond_ascii() -> None:
    message = {"type": "compare", "request": "c", "columns": ["base", "base:Modèle-7B"], "text": "hello"}
    assert messages.parse(message).columns == ("base", "base:Modèle-7B")
    with pytest.raises(messages.BadMessage):
        messages.parse(message | {"columns": ["base", "modèle"]})


@pytest.fixture
def adapters(publish: Publish, other_base: str) -> None:
    publish("emotion", "a")
    publish("topic", "b", base=other_base)


def html(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.django_db
def test_the_head_of_a_chat_names_its_base(client: Client, adapters: None, other_base: str) -> None:
    alone = html(client, f"/chat/?adapter=base:{other_base}")
    assert f'<h1 id="chat-title">{other_base}</h1>' in alone
    assert f'data-adapter="base:{other_base}"' in alone
    assert f'<h1 id="chat-title">{OURS}</h1>' in html(client, "/chat/?adapter=base")
    of_adapter = html(client, "/chat/?adapter=topic")
    assert f"on {other_base}</span>" in of_adapter
    assert f"?columns=topic,base:{other_base}" in of_adapter
    assert client.get("/chat/?adapter=base:nobody").status_code == 404


@pytest.mark.django_db
def test_pages_that_offer_somebody_offer_every_base(client: Client, adapters: None, other_base: str) -> None:
    compare = html(client, f"/compare/?columns=topic,base:{other_base}")
    assert f"</span>{other_base} (base)</a>" in compare
    menu = html(client, f"/chat/adapters/?columns=topic,base:{other_base}&position=0")
    for called in ("base", f"base:{other_base}"):
        assert f'href="/compare/?columns={called},base:{other_base}"' in menu
    assert f"?adapter=base:{other_base}" in html(client, "/chat/adapters/")


@pytest.mark.django_db
def test_a_column_alone_gets_its_own_base_beside_it(client: Client, adapters: None, other_base: str) -> None:
    assert f"</span>{other_base} (base)</a>" in html(client, "/compare/?columns=topic")
    assert f"</span>{OURS} (base)</a>" in html(client, "/compare/?columns=emotion")


@pytest.mark.django_db
def test_the_catalogue_is_filtered_by_base(client: Client, adapters: None, other_base: str) -> None:
    both = html(client, "/")
    assert both.count('name="base"') == 3
    assert both.count("data-live=") == 2
    one = html(client, f"/?base={other_base.lower()}")
    assert "/adapters/topic/" in one
    assert "/adapters/emotion/" not in one
    assert "1 of 2 adapters" in one
    assert "2 adapters" in html(client, "/?base=nobody")


@pytest.mark.django_db
def test_a_base_without_adapters_is_filtered_by_as_well(client: Client, publish: Publish, other_base: str) -> None:
    publish("emotion", "a")
    page = html(client, f"/?base={other_base}")
    assert "No adapter for this base yet" in page
    assert "0 of 1 adapter" in page
    assert "Nothing matches" in html(client, f"/?base={other_base}&q=tweet")


@pytest.mark.django_db
def test_the_column_of_a_long_base_name_tells_all_of_it(client: Client, adapters: None, other_base: str) -> None:
    page = html(client, f"/compare/?columns=topic,base:{other_base}")
    assert page.count(f"<b>{other_base}</b>") == 2


@pytest.mark.django_db
def test_a_base_that_a_row_spells_otherwise_is_no_other_base(client: Client, adapters: None, publish: Publish) -> None:
    publish("later", "c", base=OURS.upper())
    assert html(client, "/").count('name="base"') == 3
    assert "2 of 3 adapters" in html(client, f"/?base={OURS}")


@pytest.mark.django_db
def test_with_one_base_nothing_speaks_of_several(client: Client, publish: Publish) -> None:
    publish("emotion", "a")
    page = html(client, "/")
    assert 'name="base"' not in page
    assert page.count("data-live=") == 1
    assert "chat-base" not in html(client, "/chat/?adapter=emotion")


@pytest.mark.django_db(transaction=True)
async def test_each_base_has_a_lamp_of_its_own(async_client, site_wire, other_base):
    await ScriptedWorker(site_wire, other_base.lower()).beat()
    assert "Nobody is waiting" in (await async_client.get(f"/workers/lamp/?base=base:{other_base}")).content.decode()
    assert "No worker has reported" in (await async_client.get("/workers/lamp/")).content.decode()
    assert (await async_client.get("/workers/lamp/?base=nobody")).status_code == 404
    page = (await async_client.get("/workers/")).content.decode()
    assert page.count("data-live=") == 2
    assert f'<td class="base-name">{other_base}</td>' in page
