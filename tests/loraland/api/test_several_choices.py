"""One call with several answers: of several prompts, several to one prompt, or both."""

from __future__ import annotations

import asyncio
import json

import pytest

from inference.wire.protocol import Delta, Failed, Finished, Stats, TokenLogprob
from loraland import inference_client
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from loraland.inference_client import cancel
from tests.patience import PATIENCE

PLAIN = {"model": "base", "prompt": ["one two", "three"]}
CHAT = {"model": "base", "messages": [{"role": "user", "content": "one two three"}]}


async def streamed(http, path, body):
    """The chunks of a stream, and its lines."""
    async with http.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, await response.aread()
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1] if line.startswith("data")], lines


def texts_of(chunks):
    texts: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


async def test_each_prompt_of_a_list_has_its_choice_in_order(http, answering):
    worker = answering()
    done = (await http.post("/v1/completions", json=PLAIN)).json()
    choices = [(choice["index"], choice["text"], choice["finish_reason"]) for choice in done["choices"]]
    assert choices == [(0, "one two", "stop"), (1, "three", "stop")]
    assert done["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": 14,
        "completion_tokens": 3,
        "total_tokens": 17,
        "prompt_tokens_details": None,
    }
    assert {request.group for request in worker.seen} == {""}
    ids = {request.id for request in worker.seen}
    assert {choice["generation"] for choice in done["loraland"]["choices"]} == ids
    assert done["id"].removeprefix("cmpl-") == done["loraland"]["choices"][0]["generation"]


async def test_n_answers_to_a_chat_count_its_prompt_once_and_have_seeds_that_count_on(http, answering):
    worker = answering()
    done = (await http.post("/v1/chat/completions", json=CHAT | {"n": 3, "seed": 2**63 - 2})).json()
    assert [choice["index"] for choice in done["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in done["choices"]} == {"one two three"}
    assert (done["usage"]["prompt_tokens"], done["usage"]["completion_tokens"]) == (7, 9)
    assert [about["seed"] for about in done["loraland"]["choices"]] == [2**63 - 2, 2**63 - 1, 0]
    (group,) = {request.group for request in worker.seen}
    assert group


async def test_n_answers_to_each_of_several_prompts_stand_side_by_side(http, answering):
    worker = answering()
    done = (await http.post("/v1/completions", json=PLAIN | {"n": 2, "seed": 5})).json()
    assert [choice["text"] for choice in done["choices"]] == ["one two", "one two", "three", "three"]
    assert done["usage"]["prompt_tokens"] == 14
    asked = {(request.prompt, request.sampling.seed) for request in worker.seen}
    assert asked == {("one two", 5), ("one two", 6), ("three", 5), ("three", 6)}
    assert len({request.group for request in worker.seen}) == 2


async def test_a_stream_tells_each_choice_by_its_index_and_then_what_all_cost(http, answering):
    answering()
    body = PLAIN | {"n": 2, "stream_options": {"include_usage": True}}
    chunks, lines = await streamed(http, "/v1/completions", body)
    assert texts_of(chunks) == {0: "one two", 1: "one two", 2: "three", 3: "three"}
    ends = [choice for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(choice["index"] for choice in ends) == [0, 1, 2, 3]
    assert [chunk["usage"]["total_tokens"] for chunk in chunks if chunk["usage"]] == [14 + 6]
    assert chunks[-1]["choices"] == []
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not [line for line in lines if line.startswith("id:")]


async def test_each_choice_of_a_streamed_chat_begins_with_its_role(http, answering):
    answering()
    chunks, _ = await streamed(http, "/v1/chat/completions", CHAT | {"n": 2})
    begun: set[int] = set()
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        assert ("role" in choice["delta"]) == (choice["index"] not in begun)
        begun.add(choice["index"])
    assert begun == {0, 1}


async def test_more_prompts_than_a_key_may_have_answers_run_one_after_another(http, answering, settings):
    settings.MAX_RUNNING_PER_KEY = 2
    most = []
    answering()
    prompts = [f"prompt {number}" for number in range(20)]

    async def watch():
        while True:
            most.append(await Generation.objects.unfinished().acount())
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    recording = asyncio.create_task(record())
    done = (await http.post("/v1/completions", json=PLAIN | {"prompt": prompts}, timeout=PATIENCE)).json()
    await cancel(watching)
    await cancel(recording)
    assert [choice["text"] for choice in done["choices"]] == prompts
    assert max(most) <= 2


@pytest.mark.parametrize("retries", [30, 1])
async def test_a_call_waits_for_others_of_its_key_but_not_for_ever(http, answering, settings, monkeypatch, retries):
    """Its first choice had a place, which another call took."""
    monkeypatch.setattr("loraland.api.call.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("loraland.api.call.RETRIES", retries)
    settings.MAX_RUNNING_PER_KEY = 1
    answering()
    calling = asyncio.create_task(http.post("/v1/completions", json=PLAIN))
    async with asyncio.timeout(PATIENCE):
        while not (first := await Generation.objects.afirst()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    other = await Generation.objects.acreate(source="api", base="b", request={}, tenant=first.tenant)
    await asyncio.sleep(0.3)
    await Recorder("r").step(50)
    if retries == 1:
        refused = await calling
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_running")
        return
    await other.adelete()
    assert [choice["text"] for choice in (await calling).json()["choices"]] == ["one two", "three"]


async def record():
    """What the site's recorder does beside it: an answer that has ended leaves its place."""
    recorder = Recorder("r")
    while True:
        await recorder.step(50)
        await asyncio.sleep(0.01)


def failing_first(failed):
    """The first of two prompts fails so, behind its first word; the other's answer has no end."""
    return lambda request: [Delta(request.id, "x")] if request.prompt == "goes on" else failed(request.id)


async def test_a_fault_of_one_choice_is_the_calls_and_stops_the_others(http, answering):
    answering(failing_first(lambda id: [Failed(id, "prompt_too_long", "Shorten it by 12 tokens.")]))
    refused = await http.post("/v1/completions", json=PLAIN | {"prompt": ["fails", "goes on"]})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt.0")
    assert error["message"] == "Prompt 0: Shorten it by 12 tokens."
    assert set(await ends("goes on")) <= {"stopped"}


async def test_a_fault_in_mid_stream_is_told_as_an_error(http, answering):
    answering(failing_first(lambda id: [Delta(id, "x"), Failed(id, "worker_lost", "Send it again.")]))
    chunks, _ = await streamed(http, "/v1/completions", PLAIN | {"prompt": ["fails", "goes on"]})
    assert chunks[-1]["error"]["message"] == "Send it again."
    assert set(await ends("goes on")) <= {"stopped"}


async def ends(*prompts):
    """Why the answers to these prompts ended; waits for it. One that had no room yet never began."""
    begun = [generation async for generation in Generation.objects.all() if generation.request["prompt"] in prompts]
    streams = [inference_client.wire().events(each.wire_id, "0-0") for each in begun]
    return [[event async for _, event in stream][-1].reason for stream in streams]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_hangs_up_stops_all_that_run_and_none_begins_after(http, answering, settings, stream):
    settings.MAX_RUNNING_PER_KEY = 3
    answering(lambda request: [Delta(request.id, "one")])
    body = PLAIN | {"prompt": ["a", "b", "c", "d"], "stream": stream}
    calling = asyncio.create_task(http.post("/v1/completions", json=body))
    async with asyncio.timeout(PATIENCE):
        while await Generation.objects.acount() < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    calling.cancel()
    assert await ends("a", "b", "c", "d") == ["stopped"] * 3
    assert await Generation.objects.acount() == 3


async def test_with_store_the_choices_go_on_and_each_is_had_by_its_own_id(http, answering):
    answering()
    done = (await http.post("/v1/completions", json=PLAIN | {"store": True})).json()
    ids = [choice["generation"] for choice in done["loraland"]["choices"]]
    again = [(await http.get(f"/v1/completions/cmpl-{id}")).json() for id in ids]
    assert [each["choices"][0]["text"] for each in again] == ["one two", "three"]
    first = (await http.get(f"/v1/completions/{done['id']}")).json()
    assert first["choices"] == again[0]["choices"]


async def test_the_best_of_several_are_told_and_all_are_paid_for(http, answering):
    def script(request):
        logprob = {0: -3.0, 1: -0.5, 2: -1.0}[request.sampling.seed]
        token = TokenLogprob(f"<{request.sampling.seed}>", 1, logprob)
        stats = Stats(prompt_tokens=4, completion_tokens=1)
        return [Delta(request.id, token.token, (1,), (token,)), Finished(request.id, "length", stats)]

    answering(script)
    asked = {"model": "base", "prompt": "x", "seed": 0, "best_of": 3, "n": 2}
    done = (await http.post("/v1/completions", json=asked)).json()
    assert [(choice["index"], choice["text"]) for choice in done["choices"]] == [(0, "<1>"), (1, "<2>")]
    assert [choice["logprobs"] for choice in done["choices"]] == [None, None]
    assert (done["usage"]["prompt_tokens"], done["usage"]["completion_tokens"]) == (4, 3)


@pytest.mark.parametrize(
    ("change", "param", "word"),
    [
        ({"n": 0}, "n", "1"),
        ({"n": 129}, "n", "128"),
        ({"best_of": 1, "n": 2}, "best_of", "at least n"),
        ({"best_of": 2, "stream": True}, "best_of", "leave out stream"),
        ({"prompt": []}, "prompt", "list"),
        ({"prompt": ["x"] * 2049}, "prompt", "2048"),
        ({"prompt": ["x"] * 100, "n": 100}, None, "10000 answers"),
        ({"prompt": ["x", "  "]}, "prompt.1", "Prompt 1: There is no text"),
        ({"prompt": ["x", "y" * 40_000]}, "prompt.1", "40000 characters"),
        ({"prompt": ["x", "a\0b"]}, "prompt.1", "NUL"),
    ],
)
async def test_what_cannot_be_told_is_refused_before_anything_begins(http, change, param, word):
    refused = await http.post("/v1/completions", json=PLAIN | change)
    error = refused.json()["error"]
    assert (refused.status_code in (400, 413), error["param"]) == (True, param)
    assert word in error["message"]
    assert not await Generation.objects.aexists()
