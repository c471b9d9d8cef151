"""`auto:2`: the adapters that fit best are added up with equal weights, and the answer tells the sum's parts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async

from loraland.catalogue import embeddings
from loraland.catalogue.models import AdapterVersion
from tests.loraland.land import ACT, BANK, fill

CHATS = "/v1/chat/completions"
BEYOND = {"use_dora": True}
INVOKED = {"alora_invocation_tokens": [5]}


@pytest_asyncio.fixture
async def land(publish) -> None:
    await sync_to_async(fill)(publish, {"games": "d"})


def says(text: str, model: str = "auto:2", **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def changed(slug: str, **fields: Any) -> None:
    version = AdapterVersion.objects.get(adapter__slug=slug)
    fields["config"] = version.config | fields.pop("config", {})
    AdapterVersion.objects.filter(pk=version.pk).update(**fields)


async def test_the_sum_is_asked_just_as_by_its_name(http, answering, land):
    worker = answering()
    auto = (await http.post(CHATS, json=says(ACT, seed=1))).json()
    by_hand = f"0.5*games@{'d' * 12}+0.5*bank@{'b' * 12}"
    named = (await http.post(CHATS, json=says(ACT, by_hand, seed=1))).json()
    assert auto["choices"] == named["choices"]
    assert auto["loraland"]["components"] == named["loraland"]["components"]
    first, second = (dataclasses.replace(seen, id="", created=0) for seen in worker.seen)
    assert first == second
    assert auto["model"] == by_hand


async def test_the_answer_tells_parts_digests_scores_and_who_else_was_near(http, answering, land, publish):
    text = {"template": "third\n<{text}>", "fields": [{"name": "text", "label": "t", "rows": 1}]}
    examples = [{"inputs": {"text": "A walk in the park."}, "expected": ""}]
    await sync_to_async(lambda: embeddings.keep(publish("third", "c", **text, examples=examples)))()
    answering()
    answer = await http.post(CHATS, json=says(ACT))
    body, route = answer.json(), answer.json()["loraland"]["route"]
    assert [(part["adapter"], part["digest"], part["weight"]) for part in route["parts"]] == [
        ("games", "d" * 64, 0.5),
        ("bank", "b" * 64, 0.5),
    ]
    assert route["parts"][0]["score"] == route["score"] > route["parts"][1]["score"]
    assert [other["adapter"] for other in route["runners_up"]] == ["third"]
    assert (route["adapter"], route["digest"]) == (body["model"], body["loraland"]["digest"])
    assert answer.headers["x-loraland-adapter"] == body["model"]
    assert route["passed_over"] == []


async def test_the_nearest_ones_prompt_is_filled(http, answering, land):
    worker = answering()
    await http.post("/v1/completions", json={"model": "auto:2", "prompt": ACT})
    assert worker.seen[0].inputs == {"act": ACT}


async def test_more_than_there_are_is_as_many_as_there_are(http, answering, land):
    answering()
    route = (await http.post(CHATS, json=says(ACT, "auto:8"))).json()["loraland"]["route"]
    assert [part["weight"] for part in route["parts"]] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"config": BEYOND}, "is a DoRA"),
        ({"config": INVOKED}, "is an aLoRA"),
        ({"rank": 10_000}, "at most"),
    ],
)
async def test_what_cannot_be_added_is_passed_over_and_said(http, answering, land, change, why):
    worker = answering()
    await sync_to_async(changed)("bank", **change)
    body = (await http.post(CHATS, json=says(ACT))).json()
    route = body["loraland"]["route"]
    assert (body["model"], [part["adapter"] for part in route["parts"]]) == ("games", ["games"])
    [passed] = route["passed_over"]
    assert (passed["adapter"], passed["digest"]) == ("bank", "b" * 64)
    assert why in passed["why"]
    assert worker.seen[0].adapter.digest == "d" * 64


async def test_the_nearest_that_cannot_be_added_leaves_its_place_to_the_next(http, answering, land):
    worker = answering()
    await sync_to_async(changed)("games", config=BEYOND)
    body = (await http.post(CHATS, json=says(ACT))).json()
    assert body["model"] == "bank"
    assert worker.seen[0].messages[-1].content == ACT


async def test_where_nothing_can_be_added_the_nearest_answers_alone(http, answering, land):
    answering()
    for slug in ("games", "bank"):
        await sync_to_async(changed)(slug, config=BEYOND)
    body = (await http.post(CHATS, json=says(ACT))).json()
    assert (body["model"], body["loraland"]["route"]["passed_over"][0]["adapter"]) == ("games", "bank")


async def test_a_text_like_none_is_the_bases(http, answering, land):
    answering()
    body = (await http.post(CHATS, json=says("Tell me a joke."))).json()
    assert (body["model"], body["loraland"]["route"]["adapter"]) == ("base", None)


async def test_a_retired_adapter_is_no_part(http, answering, land):
    answering()
    await sync_to_async(lambda: AdapterVersion.objects.get(adapter__slug="bank").retire())()
    body = (await http.post(CHATS, json=says(ACT))).json()
    assert (body["model"], "bank" in str(body["loraland"]["route"])) == ("games", False)


async def test_loraxs_addresses_name_the_sum(http, answering, land):
    answering()
    answer = await http.post("/generate", json={"inputs": BANK[0], "parameters": {"adapter_id": "auto:2"}})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-adapter-id"] == f"0.5*bank@{'b' * 12}+0.5*games@{'d' * 12}"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("auto:9", "at most 8"),
        ("auto:0", "would add up 0 adapters"),
        ("auto:100", "would add up 100 adapters"),
        ("auto:2:nothing", "No base called 'base:noth"),
    ],
)
async def test_what_cannot_be_added_up_is_refused_with_a_sentence(http, land, model, words):
    answer = await http.post(CHATS, json=says("a", model))
    assert 400 <= answer.status_code < 500
    assert words in answer.json()["error"]["message"]
    assert words in (await http.get(f"/v1/models/{model}")).json()["error"]["message"]


async def test_the_sum_of_one_bases_best_is_a_model(http, answering, land, settings):
    answering()
    named = (await http.post(CHATS, json=says(ACT, f"auto:2:{settings.BASE_NAME}"))).json()
    assert len(named["loraland"]["route"]["parts"]) == 2
    assert (await http.get("/v1/models/auto:2")).json()["id"] == "auto:2"
