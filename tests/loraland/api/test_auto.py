"""`auto`: the adapter that fits a text answers it, in every dialect, and the answer says which and why."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings

from loraland.catalogue import embeddings
from loraland.catalogue.models import AdapterVersion
from tests.loraland.land import ACT, BANK, fill
from tests.loraland.scripted_worker import ScriptedWorker

CHATS = "/v1/chat/completions"


@pytest_asyncio.fixture
async def land(publish) -> None:
    """Adapters for customers of a bank, for talk of games, and for pairs of sentences."""
    await sync_to_async(fill)(publish)


def says(text: str, **more: object) -> dict[str, object]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


async def test_the_nearest_adapter_answers_and_says_why(http, answering, land):
    worker = answering()
    answer = await http.post(CHATS, json=says(ACT))
    body = answer.json()
    assert answer.status_code == 200, body
    assert worker.seen[0].adapter.digest == "g" * 64
    assert (body["model"], body["loraland"]["digest"]) == ("games", "g" * 64)
    route = body["loraland"]["route"]
    assert (route["adapter"], route["digest"], route["reason"]) == ("games", "g" * 64, "")
    [other] = route["runners_up"]
    assert (other["adapter"], other["digest"]) == ("bank", "b" * 64)
    assert route["score"] > other["score"]
    assert answer.headers["x-loraland-adapter"] == "games"
    assert answer.headers["x-loraland-digest"] == "g" * 64
    assert answer.headers["x-loraland-score"] == str(route["score"])
    assert answer.headers["x-loraland-runners-up"] == f"bank={other['score']}"


async def test_it_is_asked_just_as_by_its_name(http, answering, land):
    worker = answering()
    auto = (await http.post(CHATS, json=says(ACT, seed=1))).json()
    named = (await http.post(CHATS, json=says(ACT, seed=1) | {"model": "games"})).json()
    assert auto["choices"] == named["choices"]
    first, second = (dataclasses.replace(seen, id="", created=0) for seen in worker.seen)
    assert first == second


async def test_a_text_like_none_is_the_bases(http, answering, land):
    worker = answering()
    answer = await http.post(CHATS, json=says("Tell me a joke."))
    body = answer.json()
    assert (worker.seen[0].adapter, body["model"]) == (None, "base")
    assert body["loraland"]["route"]["adapter"] is None
    assert body["loraland"]["route"]["reason"] in ("general", "far")
    assert answer.headers["x-loraland-adapter"] == "base"
    assert "x-loraland-score" not in answer.headers


@pytest.mark.parametrize("text", ["a: A man walks\nb: A man is out", '{"a": "A man walks", "b": "A man is out"}'])
async def test_a_text_that_names_fields_fills_them(http, answering, land, text):
    worker = answering()
    body = (await http.post(CHATS, json=says(text))).json()
    assert body["model"] == "pair"
    assert worker.seen[0].inputs == {"a": "A man walks", "b": "A man is out"}


async def test_a_whole_prompt_is_unfilled(http, answering, land):
    worker = answering()
    body = (await http.post(CHATS, json=says(f"games\n<{ACT}>"))).json()
    assert body["model"] == "games"
    assert worker.seen[0].messages[-1].content == ACT


async def test_inputs_find_the_adapter_that_has_these_fields(http, answering, land):
    worker = answering()
    inputs = {"a": "1", "b": "2"}
    body = (await http.post(CHATS, json={"model": "auto", "messages": [], "inputs": inputs})).json()
    assert (body["model"], worker.seen[0].inputs) == ("pair", inputs)


async def test_inputs_that_nobody_has_are_refused_by_their_names(http, land):
    answer = await http.post(CHATS, json={"model": "auto", "messages": [], "inputs": {"x": "1"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "inputs")
    assert "exactly the fields x" in answer.json()["error"]["message"]


async def test_a_completion_has_its_text_filled_into_the_template(http, answering, land):
    worker = answering()
    body = (await http.post("/v1/completions", json={"model": "auto", "prompt": ACT})).json()
    assert (body["model"], worker.seen[0].inputs, worker.seen[0].prompt) == ("games", {"act": ACT}, None)


async def test_a_completion_that_fits_none_is_the_bases_own(http, answering, land):
    worker = answering()
    await http.post("/v1/completions", json={"model": "auto", "prompt": "Tell me a joke."})
    assert (worker.seen[0].adapter, worker.seen[0].prompt) == (None, "Tell me a joke.")


async def test_a_response_is_routed(http, answering, land):
    answering()
    body = (await http.post("/v1/responses", json={"model": "auto", "input": ACT})).json()
    assert (body["model"], body["loraland"]["route"]["adapter"]) == ("games", "games")


async def test_a_message_of_anthropics_is_routed(http, answering, land):
    answering()
    asked = says(ACT, max_tokens=9)
    body = (await http.post("/v1/messages", json=asked)).json()
    assert (body["model"], body["loraland"]["route"]["adapter"]) == ("games", "games")


@pytest.mark.parametrize("path", ["/generate", "/", "/generate_stream"])
async def test_loraxs_addresses_are_routed_and_name_the_adapter(http, answering, land, path):
    worker = answering()
    answer = await http.post(path, json={"inputs": ACT, "parameters": {"adapter_id": "auto"}})
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-adapter-id"], answer.headers["x-loraland-adapter"]) == ("games", "games")
    assert worker.seen[0].inputs == {"act": ACT}


async def test_a_stream_says_it_in_its_headers_and_at_its_end(http, answering, land):
    answering()
    answer = await http.post(CHATS, json=says(ACT, stream=True))
    assert answer.headers["x-loraland-adapter"] == "games"
    assert '"route":{"adapter":"games"' in answer.text


@pytest.mark.parametrize("text", [ACT, "Tell me a joke."])
async def test_who_comes_back_for_an_answer_is_told_the_choice_too(http, answering, land, text):
    answering()
    first = await http.post(CHATS, json=says(text))
    again = await http.get(f"{CHATS}/{first.headers['x-request-id']}")
    assert again.json()["loraland"]["route"] == first.json()["loraland"]["route"]
    assert again.headers["x-loraland-runners-up"] == first.headers["x-loraland-runners-up"]
    named = await http.post(CHATS, json=says(text) | {"model": "bank"})
    assert "route" not in (await http.get(f"{CHATS}/{named.headers['x-request-id']}")).json()["loraland"]


async def test_tools_are_for_the_base(http, answering, land):
    worker = answering()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = (await http.post(CHATS, json=says(ACT, tools=[tool]))).json()
    assert (worker.seen[0].adapter, body["loraland"]["route"]["reason"]) == (None, "tools")


async def test_the_last_message_of_the_user_chooses(http, answering, land):
    answering()
    turns = [{"role": "user", "content": BANK[0]}, {"role": "assistant", "content": "?"}, *says(ACT)["messages"]]
    body = (await http.post(CHATS, json={"model": "auto", "messages": turns})).json()
    assert (body["model"], body["loraland"]["unused_messages"]) == ("games", [0, 1])


async def test_earlier_turns_that_must_be_read_are_read_by_the_base(http, answering, land):
    answering()
    turns = [{"role": "system", "content": "Be kind."}, *says(ACT)["messages"]]
    asked = {"model": "auto", "messages": turns, "truncation": "disabled"}
    body = (await http.post(CHATS, json=asked)).json()
    assert (body["model"], body["loraland"]["route"]["reason"]) == ("base", "earlier_turns")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/completions", {"prompt": ["a", "b"]}, "these are 2"),
        ("/v1/completions", {"prompt": [1, 2]}, "token ids"),
        ("/v1/embeddings", {"input": "a"}, "vectors"),
        (CHATS, {"model": "auto:nothing", "messages": says("a")["messages"]}, "No base called"),
    ],
)
async def test_what_cannot_be_chosen_is_refused_with_a_sentence(http, land, path, body, words):
    answer = await http.post(path, json={"model": "auto", **body})
    assert 400 <= answer.status_code < 500
    assert words in answer.json()["error"]["message"]


async def test_a_retired_adapter_is_chosen_no_more(http, answering, land):
    answering()
    await sync_to_async(lambda: AdapterVersion.objects.get(adapter__slug="games").retire())()
    body = (await http.post(CHATS, json=says(ACT))).json()
    assert "games" not in json.dumps(body["loraland"]["route"])


@pytest_asyncio.fixture
async def tiny(site_wire, land, other_base, publish) -> AsyncIterator[str]:
    """A base of its own whose adapter for talk of games is nearer than ours, and a worker of it that is not up yet."""
    examples = [{"inputs": {"act": ACT}, "expected": ""}]
    about = {"template": "<{act}>", "fields": [{"name": "act"}], "examples": examples, "base": other_base}
    await sync_to_async(lambda: embeddings.keep(publish("tiny", "t", **about)))()
    yield other_base


async def test_of_several_bases_those_that_are_up_are_looked_at(http, answering, site_wire, tiny):
    answering()
    body = (await http.post(CHATS, json=says(ACT))).json()
    assert body["model"] == "games"
    assert "tiny" not in json.dumps(body["loraland"]["route"])
    entry = (await http.get(f"/v1/models/auto:{tiny}")).json()
    assert (entry["loraland"]["among"], entry["loraland"]["base_is_up"]) == ([tiny], False)


async def test_the_adapters_of_a_named_base_are_chosen_and_no_others(http, answering, site_wire, tiny):
    answering()
    other = ScriptedWorker(site_wire, tiny.lower())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other.run())
        try:
            named = (await http.post(CHATS, json=says(ACT) | {"model": f"auto:{tiny}"})).json()
            either = (await http.post(CHATS, json=says(ACT))).json()
            ours = (await http.post(CHATS, json=says(ACT) | {"model": f"auto:{settings.BASE_NAME}"})).json()
        finally:
            other.leaving = True
    assert [body["model"] for body in (named, either, ours)] == ["tiny", "tiny", "games"]
    assert named["loraland"]["route"]["runners_up"] == []


async def test_what_a_chosen_adapters_prompt_counts_is_counted(http, land, folder):
    named = (await http.post("/v1/messages/count_tokens", json=says(ACT) | {"model": "games"})).json()
    counted = (await http.post("/v1/messages/count_tokens", json=says(ACT))).json()
    assert counted["input_tokens"] == named["input_tokens"]
    assert counted["loraland"]["route"]["adapter"] == "games"


async def test_it_is_among_the_models_after_the_base(http, land):
    names = [each["id"] for each in (await http.get("/v1/models")).json()["data"]]
    assert names[:2] == ["base", "auto"]
    assert (await http.get("/v1/models/auto")).json()["loraland"]["among"]
