"""What the API refuses, in which words; and what becomes of an answer whose caller hangs up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from inference.wire.protocol import Delta, Failed
from loraland.api.last_used import notes
from loraland.api.models import ApiKey
from loraland.generations.models import Generation
from tests.patience import PATIENCE, patiently

ASKED = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
UNLIMITED = httpx.Limits(max_connections=None)
PLAIN = {"model": "base", "prompt": "hi"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"beam_width": 4}, "beam_width"),
        ({"n": 129}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -2}, "seed"),
        ({"stop": [3]}, "stop"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": []}, "messages"),
        ({"inputs": {"text": 3}, "messages": None}, "inputs.text"),
        ({"model": None}, "model"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(http, change, param):
    answer = await http.post("/v1/chat/completions", json=ASKED | change)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"echo": 1}, "echo"),
        ({"inputs": [{"text": "x"}], "prompt": None}, "inputs"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": ["a", 2]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt": "  "}, "prompt"),
    ],
)
async def test_what_a_plain_completion_cannot_do_is_refused_by_name(http, change, param):
    answer = await http.post("/v1/completions", json=PLAIN | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (["a", [1]], "of several kinds"),
        ([1, True], "item 1 is true"),
        ([[1], [1.5]], "item 1 is a list of other things than token ids"),
        ([], "empty"),
        ({"a": 1}, "an object"),
        ([-1], "the number -1"),
    ],
)
async def test_what_is_no_prompt_is_told_what_it_is(http, prompt, words):
    error = (await http.post("/v1/completions", json=PLAIN | {"prompt": prompt})).json()["error"]
    assert words in error["message"]
    assert "a list of token ids" in error["message"]


@pytest.mark.parametrize("change", [{"logprobs": False, "top_logprobs": 2}, {"messages": None}])
async def test_a_request_that_contradicts_itself_is_refused(http, change):
    answer = await http.post("/v1/chat/completions", json=ASKED | change)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_value"


async def test_a_body_that_is_not_json_or_too_large_is_refused(http, settings):
    answer = await http.post("/v1/completions", content="{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    answer = await http.post("/v1/completions", json=PLAIN | {"prompt": "x" * 200})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_text_longer_than_the_site_takes_is_refused(http, settings):
    settings.MAX_INPUT_CHARS = 10
    answer = await http.post("/v1/completions", json=PLAIN | {"prompt": "x" * 11})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


async def test_a_full_queue_is_503_with_retry_after(http, settings):
    settings.QUEUE_LIMIT = 1
    first = asyncio.create_task(http.post("/v1/completions", json=PLAIN))
    while not await Generation.objects.aexists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    answer = await http.post("/v1/completions", json=PLAIN)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == ("server_error", "queue_full")
    first.cancel()


@pytest.mark.parametrize("stream", [True, False])
async def test_what_would_come_too_late_is_429_with_the_time_to_come_back(http, answering, stream):
    late = Failed("", "too_late", "Its first token was wanted within 3 s.", retry_after=7)
    worker = answering(lambda request: [replace(late, id=request.id)])
    answer = await http.post("/v1/completions", json=PLAIN | {"first_token_within": 3, "stream": stream})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == ("rate_limit_error", "too_late")
    assert worker.seen[0].sampling.first_token_within == 3


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("/v1/chat/completions", ASKED),
        ("/v1/messages", ASKED | {"max_tokens": 8}),
        ("/v1/responses", {"model": "base", "input": "Hello"}),
        ("/generate", {"inputs": "Hello"}),
    ],
)
async def test_every_dialect_says_by_when_a_first_token_is_wanted(http, answering, address, body):
    worker = answering()
    within = {"first_token_within": 2.5}
    asked = body | ({"parameters": within} if address == "/generate" else within)
    assert (await http.post(address, json=asked)).status_code == 200
    assert worker.seen[0].sampling.first_token_within == 2.5
    wrong = {"first_token_within": -1}
    asked = body | ({"parameters": wrong} if address == "/generate" else wrong)
    assert (await http.post(address, json=asked)).status_code in (400, 422)


async def test_a_key_has_only_so_many_answers_at_once(http, settings):
    settings.MAX_RUNNING_PER_KEY = 1
    key = await ApiKey.objects.aget()
    await Generation.objects.acreate(source="api", base="b", request={}, tenant=f"key:{key.pk}")
    answer = await http.post("/v1/completions", json=PLAIN)
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("change", [{"revoked": timezone.now()}, {"expires": timezone.now()}, {"hash": "0"}])
async def test_a_key_that_is_revoked_or_expired_or_unknown_is_refused(http, change):
    await ApiKey.objects.aupdate(**change)
    answer = await http.get("/v1/models")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("header", ["", "Basic bGw6bGw=", "Bearer", "Bearer ll_é", "Token x"])
async def test_a_caller_without_a_bearer_token_is_refused(http, header):
    answer = await http.get("/v1/models", headers={"Authorization": header.encode()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_the_session_of_an_administrator_opens_nothing(http, admin_client):
    session = admin_client.cookies["sessionid"].value
    del http.headers["Authorization"]
    assert (await http.get("/v1/models", headers={"Cookie": f"sessionid={session}"})).status_code == 401


async def test_the_last_use_of_a_key_is_noted_once_a_minute(http):
    notes._noted.clear()
    await http.get("/v1/models")
    await asyncio.to_thread(notes._thread.submit(int).result)
    first = (await ApiKey.objects.aget()).last_used
    await http.get("/v1/models")
    await asyncio.to_thread(notes._thread.submit(int).result)
    assert first is not None
    assert (await ApiKey.objects.aget()).last_used == first


async def test_an_address_that_does_not_exist_is_told_in_the_same_shape(http):
    answer = await http.post("/v1/images/generations", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_no_other_site_may_read_the_answers(http):
    answer = await http.get("/v1/models", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_hangs_up_stops_the_answer(http, answering, stream):
    worker = answering(lambda request: [Delta(request.id, "one")])
    calling = asyncio.create_task(_first_bytes(http, PLAIN | {"stream": stream}))
    if stream:
        await calling
    for _ in patiently():
        if worker.seen:
            break
        await asyncio.sleep(0.02)
    calling.cancel()
    for _ in patiently():
        if worker.stopped:
            break
        await asyncio.sleep(0.02)
    (request,) = worker.seen
    assert worker.stopped == [request.id]


async def _first_bytes(http, body) -> str:
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            return line
    return ""


async def test_a_stream_that_waits_says_so_until_it_begins(http, answering, monkeypatch):
    monkeypatch.setattr("loraland.api.streaming.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("loraland.api.streaming.KEEP_ALIVE_SECONDS", 0.05)
    async with http.stream("POST", "/v1/completions", json=PLAIN | {"stream": True}) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ": waiting"
        await sync_to_async(answering)()
        rest = [line async for line in lines if line.startswith("data")]
    assert '"text":"hi"' in rest[0]
    assert rest[-1] == "data: [DONE]"
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.slow
async def test_a_burst_of_calls_is_accepted_as_a_whole(http, answering):
    answering()
    async with httpx.AsyncClient(
        base_url=http.base_url, headers=http.headers, timeout=PATIENCE, limits=UNLIMITED
    ) as client:
        answers = await asyncio.gather(*[client.post("/v1/completions", json=PLAIN) for _ in range(150)])
    assert {answer.status_code for answer in answers} == {200}
