"""Coming back for an answer: what a program gets whose connection broke, and what somebody else's key gets."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest
from asgiref.sync import sync_to_async

from inference.wire.protocol import Delta, Finished, Stats, TokenLogprob
from loraland import inference_client
from loraland.api.models import ApiKey
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from tests.patience import PATIENCE

CHAT = {"model": "base", "messages": [{"role": "user", "content": "one two three"}], "stream": True}
PATH = "/v1/chat/completions"


class Stream:
    """The events of one stream: their ids, and what their data say."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.chunks: list[dict] = []
        self.is_done = False

    def take(self, lines: list[str]) -> None:
        fields = dict(line.split(": ", 1) for line in lines if line and not line.startswith(":"))
        self.ids += [fields["id"]] if "id" in fields else []
        if fields.get("data") == "[DONE]":
            self.is_done = True
        elif "data" in fields:
            self.chunks.append(json.loads(fields["data"]))

    @property
    def text(self) -> str:
        choices = [choice for chunk in self.chunks for choice in chunk["choices"]]
        return "".join(
            choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices
        )

    @property
    def id(self) -> str:
        return self.chunks[0]["id"]


async def listen(call, num_texts: int | None = None) -> Stream:
    """Read a stream to its end, or hang up after so many events with text."""
    stream, lines = Stream(), []
    async with call as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            lines.append(line)
            if not line:
                stream.take(lines)
                lines = []
            if len(stream.ids) == num_texts:
                break
    return stream


async def finish(worker, answer: str) -> None:
    """Have the wire hold the end of an answer that its worker left open."""
    id = answer.rpartition("-")[2]
    wire = inference_client.wire()
    events = [Delta(id, " three", (2,)), Delta(id, " four", (3,)), Finished(id, "done", Stats(completion_tokens=4))]
    claim = worker.claims[id]
    await wire.append(claim, events)


def open_ended(request):
    return [Delta(request.id, word, (at,)) for at, word in enumerate(("one", " two"))]


async def test_a_stored_answer_outlives_its_caller_and_goes_on_behind_the_last_event(http, answering):
    worker = answering(open_ended)
    before = await listen(http.stream("POST", PATH, json=CHAT | {"store": True}), num_texts=1)
    await asyncio.sleep(0.3)
    assert worker.stopped == []
    rest = asyncio.create_task(
        listen(
            http.stream(
                "GET",
                f"{PATH}/{before.id}",
                params={"stream": True, "include_usage": True},
                headers={"Last-Event-ID": before.ids[-1]},
            )
        )
    )
    await asyncio.sleep(0.3)
    await finish(worker, before.id)
    after = await rest
    assert (before.text, after.text, after.is_done) == ("one", " two three four", True)
    assert {chunk["id"] for chunk in after.chunks} == {before.id}
    assert after.chunks[-1]["usage"]["completion_tokens"] == 4
    assert not set(before.ids) & set(after.ids)
    assert "role" not in after.chunks[0]["choices"][0]["delta"]


async def test_a_caller_who_did_not_ask_for_that_stops_the_answer(http, answering):
    worker = answering(open_ended)
    before = await listen(http.stream("POST", PATH, json=CHAT), num_texts=1)
    async with asyncio.timeout(PATIENCE):
        while not worker.stopped:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    again = await http.get(f"{PATH}/{before.id}")
    assert again.json()["choices"][0]["message"]["content"] == "one two"
    assert again.json()["loraland"]["reason"] == "stopped"


async def test_a_caller_who_comes_back_and_leaves_again_stops_nothing(http, answering):
    worker = answering(open_ended)
    before = await listen(http.stream("POST", PATH, json=CHAT | {"store": True}), num_texts=1)
    again = await listen(http.stream("GET", f"{PATH}/{before.id}", params={"stream": True}), num_texts=2)
    await asyncio.sleep(0.3)
    assert (again.text, worker.stopped) == ("one two", [])


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_an_ended_answer_is_had_again_whole_and_from_any_event(http, answering, is_recorded):
    answering()
    first = await listen(http.stream("POST", PATH, json=CHAT))
    if is_recorded:
        await Recorder("r").step(50)
    whole = (await http.get(f"{PATH}/{first.id}")).json()
    assert (whole["id"], whole["object"]) == (first.id, "chat.completion")
    assert (whole["choices"][0]["message"]["content"], whole["usage"]["completion_tokens"]) == ("one two three", 3)
    for number, id in enumerate(first.ids, 1):
        call = http.stream("GET", f"{PATH}/{first.id}", params={"stream": True}, headers={"Last-Event-ID": id})
        rest = await listen(call)
        assert (rest.ids, rest.is_done) == (first.ids[number:], True)
        assert rest.chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_offsets_of_a_plain_completion_go_on_too(http, answering):
    tokens = [TokenLogprob("joy", 0, -0.5), TokenLogprob(" and", 1, -0.5, offset=3)]
    answering(
        lambda request: [
            *(Delta(request.id, token.token, (token.token_id,), (token,)) for token in tokens),
            Finished(request.id, "done"),
        ]
    )
    first = await listen(
        http.stream("POST", "/v1/completions", json={"model": "base", "prompt": "x", "stream": True, "logprobs": 1})
    )
    assert first.id.startswith("cmpl-")
    headers = {"Last-Event-ID": first.ids[0]}
    rest = await listen(http.stream("GET", f"/v1/completions/{first.id}", params={"stream": True}, headers=headers))
    assert rest.chunks[0]["choices"][0]["logprobs"]["text_offset"] == [3]


async def test_once_the_stream_has_gone_the_answer_is_had_whole_alone(http, answering):
    answering()
    first = await listen(http.stream("POST", PATH, json=CHAT))
    await Recorder("r").step(50)
    await inference_client.redis().flushall()
    headers = {"Last-Event-ID": first.ids[0]}
    gone = await http.get(f"{PATH}/{first.id}", params={"stream": True}, headers=headers)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "stream_gone")
    assert (await http.get(f"{PATH}/{first.id}")).json()["choices"][0]["message"]["content"] == "one two three"
    anew = await listen(http.stream("GET", f"{PATH}/{first.id}", params={"stream": True}))
    assert (anew.text, anew.ids) == ("one two three", [])


async def test_the_official_client_retrieves_an_answer(server, secret, answering, emotion):
    answering()
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=secret, max_retries=0, timeout=PATIENCE
    ) as client:
        asked = {"model": "emotion", "messages": CHAT["messages"]}
        done = await client.chat.completions.create(**asked, store=True)
        again = await client.chat.completions.retrieve(done.id)
    assert again.choices == done.choices
    assert (again.id, again.usage, again.loraland) == (done.id, done.usage, done.loraland)
    assert again.model == "emotion@aaaaaaaaaaaa"


async def test_another_keys_answer_is_not_there(http, server, answering):
    answering()
    first = await listen(http.stream("POST", PATH, json=CHAT))
    other = (await sync_to_async(ApiKey.objects.issue)("other"))[1]
    headers = {"Authorization": f"Bearer {other}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE) as stranger:
        for stream in (False, True):
            refused = await stranger.get(f"{PATH}/{first.id}", params={"stream": stream})
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    del http.headers["Authorization"]
    assert (await http.get(f"{PATH}/{first.id}")).status_code == 401


@pytest.mark.parametrize("id", ["", "chatcmpl-", "7", f"chatcmpl-{'0f' * 16}", "chatcmpl-" + "9" * 5000, "٣" * 32])
async def test_an_answer_that_is_none_is_not_there(http, id):
    assert (await http.get(f"{PATH}/{id}")).status_code in (404, 405)


@pytest.mark.parametrize("after", ["5", "soon", f"{2**64}-0", "9" * 5000, "-1-0", "1-0-0"])
async def test_an_event_that_is_none_is_refused(http, answering, after):
    answering()
    first = await listen(http.stream("POST", PATH, json=CHAT))
    refused = await http.get(f"{PATH}/{first.id}", params={"stream": True}, headers={"Last-Event-ID": after})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Last-Event-ID")


async def test_a_stream_goes_on_when_its_row_has_to_tell_the_rest(http, answering, monkeypatch):
    """Redis forgot the stream under a reader who has its beginning: nothing is told twice."""
    monkeypatch.setattr("loraland.generations.reading.SILENCE_SECONDS", 0.2)
    answering(open_ended)
    lines: list[str] = []
    stream = Stream()
    async with http.stream("POST", PATH, json=CHAT) as response:
        async for line in response.aiter_lines():
            lines.append(line)
            if not line:
                stream.take(lines)
                lines = []
            if len(stream.ids) == 2 and not stream.is_done and await Generation.objects.unfinished().aexists():
                await inference_client.redis().delete(f"generation:{stream.id.rpartition('-')[2]}")
                await Generation.objects.aupdate(status="done", text="one two three")
    assert (stream.text, stream.is_done) == ("one two three", True)
