"""Programs and several bases: each is listed and answers under its name, adapters by their own base."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings

from inference.wire.contract import Wire
from loraland.catalogue.models import AdapterVersion
from loraland.generations.models import Generation
from tests.loraland.scripted_worker import ScriptedWorker, echo

pytestmark = pytest.mark.django_db(transaction=True)

OURS = site_settings.BASE_NAME
HI = [{"role": "user", "content": "hi there"}]
Publish = Callable[..., AdapterVersion]


@pytest_asyncio.fixture
async def both(site_wire: Wire, other_base: str, publish: Publish) -> AsyncIterator[dict[str, ScriptedWorker]]:
    """A worker of each base, by its name, and an adapter of each: emotion of ours, and topic of the other."""
    await sync_to_async(publish)("emotion", "a")
    await sync_to_async(publish)("topic", "b", base=other_base)
    workers = {name: ScriptedWorker(site_wire, name.lower(), echo) for name in (OURS, other_base)}
    async with asyncio.TaskGroup() as tasks:
        for worker in workers.values():
            worker.work = tasks.create_task(worker.run())
        yield workers
        for worker in workers.values():
            worker.leaving = True


async def ask(http: Any, model: str, **more: Any) -> Any:
    return await http.post("/v1/chat/completions", json={"model": model, "messages": HI, **more})


async def base_of_the_last() -> str:
    return (await Generation.objects.order_by("-created").afirst()).base


async def test_each_name_is_answered_by_its_own_base(http, both, other_base):
    for model, base in {
        "base": OURS,
        f"base:{other_base}": other_base,
        f"base:{other_base.upper()}": other_base,
        f"owner/{other_base}": other_base,
        OURS: OURS,
        "emotion": OURS,
        "topic": other_base,
    }.items():
        answer = await ask(http, model)
        assert (answer.status_code, await base_of_the_last()) == (200, base), model
        assert answer.json()["model"] == model
    answer = await http.post("/v1/completions", json={"model": f"base:{other_base}", "prompt": "hi"})
    assert (answer.status_code, await base_of_the_last()) == (200, other_base)


async def test_a_base_that_is_down_keeps_nobody_else_waiting(http, both, other_base):
    both[other_base].leaving = True
    await both[other_base].work
    waiting = asyncio.create_task(ask(http, "topic"))
    assert (await ask(http, "emotion")).status_code == 200
    models = {each["id"]: each["loraland"]["base_is_up"] for each in (await http.get("/v1/models")).json()["data"]}
    assert (models["base"], models["emotion"]) == (True, True)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_the_list_tells_of_each_its_base_and_can_be_asked_for_one(http, site_wire, both, other_base):
    await both[other_base].beat()
    await site_wire.depart(site_settings.BASE_KEY, "scripted")
    models = {each["id"]: each for each in (await http.get("/v1/models")).json()["data"]}
    assert {id: each["loraland"]["base"] for id, each in models.items()} == {
        "base": OURS,
        f"base:{other_base}": other_base,
        "auto": OURS,
        "emotion": OURS,
        "emotion@aaaaaaaaaaaa": OURS,
        "topic": other_base,
        "topic@bbbbbbbbbbbb": other_base,
    }
    assert models["topic"]["parent"] == models[f"base:{other_base}"]["id"]
    for asked in (other_base, f"base:{other_base}"):
        listed = (await http.get("/v1/models", params={"base": asked})).json()["data"]
        assert [each["id"] for each in listed] == [
            f"base:{other_base}",
            f"auto:{other_base}",
            "topic",
            "topic@bbbbbbbbbbbb",
        ]
    listed = (await http.get("/v1/models", params={"base": "base"})).json()["data"]
    assert [each["id"] for each in listed] == ["base", f"auto:{OURS}", "emotion", "emotion@aaaaaaaaaaaa"]
    one = (await http.get(f"/v1/models/base:{other_base}")).json()
    assert (one["root"], one["loraland"]["base"]) == (other_base, other_base)


async def test_a_base_that_is_not_served_is_refused_with_those_that_are(http, both, other_base):
    answer = await ask(http, "base:mistral")
    assert answer.status_code == 404
    assert f"there is base ({OURS}), base:{other_base}." in answer.json()["error"]["message"]
    assert (await http.get("/v1/models", params={"base": "mistral"})).status_code == 404


@pytest.mark.parametrize(
    "model", ["base:", "base: ", "base:/", "base:base", "base:Base", "BASE", "base:other/Tiny-Llama"]
)
async def test_what_only_looks_like_a_base_is_refused(http, both, model):
    answer = await ask(http, model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found"), answer.text


async def test_another_owner_s_model_of_the_same_name_is_not_taken_for_the_base(http, both, other_base):
    answer = await ask(http, f"another/{other_base}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    # Of a base in a folder nobody knows the owner.
    assert (await ask(http, f"anybody/{OURS}")).status_code == 200


async def test_an_answer_of_a_base_that_has_gone_is_not_told_as_the_default_one_s(http, both, other_base, settings):
    answer = (await ask(http, f"base:{other_base}", store=True)).json()
    settings.BASE_MODELS = (settings.BASE_MODEL,)
    again = (await http.get(f"/v1/chat/completions/{answer['id']}")).json()
    assert again["model"] == f"base:{other_base}"


async def test_ranks_add_up_to_what_the_workers_of_that_base_take(http, both, other_base, publish):
    await sync_to_async(publish)("news", "c", base=other_base, rank=10)
    await sync_to_async(publish)("sport", "d", base=other_base, rank=7)
    answer = await ask(http, "news+sport")
    assert answer.status_code == 400
    assert "add up to 17; at most 16 is served" in answer.json()["error"]["message"]


async def test_adapters_of_different_bases_are_not_added_up(http, both, other_base):
    answer = await ask(http, "emotion+topic")
    assert answer.status_code == 400
    assert "different bases cannot be added up" in answer.json()["error"]["message"]
    answer = await ask(http, f"emotion+base:{other_base}")
    assert "The base is part of every answer" in answer.json()["error"]["message"]
