"""Messages, as Anthropic's client asks for them and reads them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import pytest_asyncio

from inference.wire.protocol import Delta, Finished, Message, Stats, TokenLogprob
from tests.patience import PATIENCE

HELLO = [{"role": "user", "content": "A colour?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tells it.", "input_schema": CITY}
ASKED = {"model": "base", "max_tokens": 20, "messages": HELLO}


@pytest_asyncio.fixture
async def client(server, secret):
    headers = {"x-api-key": secret, "anthropic-version": "2023-06-01"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE) as client:
        yield client


def says(text: str, reason: Any = "done", stop: str = ""):
    """A worker that answers with `text`, in pieces of three characters, ended by the stop string `stop`."""
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    stats = Stats(prompt_tokens=7, completion_tokens=3, cached_tokens=4)

    def answers(request):
        with_tokens = request.sampling.logprobs is not None
        told = [Delta(request.id, piece, (1,), (TokenLogprob(piece, 1, -0.5),) * with_tokens) for piece in pieces]
        last = [Delta(request.id, "", (2,), (TokenLogprob(stop, 2, -0.5),))] if stop and with_tokens else []
        return [*told, *last, Finished(request.id, reason, stats)]

    return answers


async def post(client, **parameters: Any) -> dict[str, Any]:
    response = await client.post("/v1/messages", json=ASKED | parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def events_of(client, **parameters: Any) -> list[dict[str, Any]]:
    response = await client.post("/v1/messages", json=ASKED | parameters | {"stream": True})
    lines = [line.partition(": ") for line in response.text.splitlines() if line and not line.startswith(":")]
    names = [rest for name, _, rest in lines if name == "event"]
    events = [json.loads(rest) for name, _, rest in lines if name == "data"]
    assert names == [event["type"] for event in events]
    return events


async def test_a_message_is_answered_with_its_usage(client, answering):
    worker = answering(says("Red it is."))
    response = await client.post("/v1/messages", json=ASKED | {"system": "Be brief.", "temperature": 0.5, "top_k": 3})
    done = response.json()
    assert done["content"] == [{"type": "text", "text": "Red it is."}]
    assert (done["type"], done["role"], done["model"], done["stop_reason"]) == (
        "message",
        "assistant",
        "base",
        "end_turn",
    )
    assert (done["usage"]["input_tokens"], done["usage"]["output_tokens"]) == (7, 3)
    assert done["usage"]["cache_read_input_tokens"] == 4
    assert done["id"].removeprefix("msg_") == response.headers["request-id"]
    (request,) = worker.seen
    assert request.messages == (Message("system", "Be brief."), Message("user", "A colour?"))
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.top_k) == (20, 0.5, 3)
    assert request.sampling.unset == ("top_p", "min_p", "typical_p", "repetition_penalty")


async def test_a_bearer_token_is_taken_too(server, secret, answering):
    answering(says("Red."))
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE) as client:
        assert (await post(client))["content"][0]["text"] == "Red."


@pytest.mark.parametrize(
    ("worker", "parameters", "reason", "stop"),
    [
        (says("Red", "length"), {}, "max_tokens", None),
        (says("Red", stop="END"), {"stop_sequences": ["STOP", "END"]}, "stop_sequence", "END"),
        (says("Red"), {"stop_sequences": ["END"]}, "end_turn", None),
    ],
)
async def test_it_is_told_why_a_message_ended(client, answering, worker, parameters, reason, stop):
    answering(worker)
    done = await post(client, **parameters)
    assert (done["stop_reason"], done["stop_sequence"]) == (reason, stop)
    last = next(event for event in await events_of(client, **parameters) if event["type"] == "message_delta")
    assert last["delta"] == {"stop_reason": reason, "stop_sequence": stop}


async def test_events_tell_one_block_after_the_other(client, answering):
    answering(says("Red it is."))
    events = await events_of(client)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == "Red it is."
    assert events[-2]["usage"]["output_tokens"] == 3


async def test_a_forced_call_is_a_block_with_its_input(client, answering):
    worker = answering(says('{"city": "Bonn"}'))
    parameters = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}}
    done = await post(client, **parameters)
    (call,) = done["content"]
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Bonn"})
    assert done["stop_reason"] == "tool_use"
    assert json.loads(worker.seen[0].sampling.constraint.text) == CITY
    events = await events_of(client, **parameters)
    begun = next(event for event in events if event["type"] == "content_block_start")
    assert begun["content_block"] == {
        "type": "tool_use",
        "id": begun["content_block"]["id"],
        "name": "weather",
        "input": {},
    }
    pieces = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == {"city": "Bonn"}


async def test_words_and_a_call_are_two_blocks(client, answering):
    answering(says('Let me see. <tool_call>{"name": "weather", "arguments": {"city": "Bonn"}}</tool_call>'))
    done = await post(client, tools=[WEATHER])
    assert [block["type"] for block in done["content"]] == ["text", "tool_use"]
    events = await events_of(client, tools=[WEATHER])
    assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1]


async def test_a_conversation_with_calls_comes_in_blocks(client, answering):
    worker = answering(says("Warm."))
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bonn"}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Warm?", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "21 degrees"}]},
    ]
    done = await post(client, messages=turns, tools=[WEATHER], metadata={"user_id": "me"})
    messages = worker.seen[0].messages
    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assert json.loads(messages[1].tool_calls)[0]["function"] == {"name": "weather", "arguments": '{"city": "Bonn"}'}
    assert (messages[2].content, messages[2].tool_call_id) == ("21 degrees", "t1")
    told = ["metadata", "messages.0.content.0.cache_control", "messages.1.content.0"]
    assert done["loraland"]["ignored"] == told


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages: [] are no messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, 'messages.0.role: "system" is no role'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages.0.content.0.type: images are not read",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "is not offered; tools here are the caller's own",
        ),
        ({"tool_choice": {"type": "some"}, "tools": [WEATHER]}, "its type is auto, any, tool or none"),
        ({"model": "nobody"}, "nobody"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
async def test_what_cannot_be_done_is_told_in_anthropics_shape(client, parameters, sentence):
    response = await client.post("/v1/messages", json=ASKED | parameters)
    told = response.json()
    assert told["type"] == "error"
    assert told["error"]["type"] == ("not_found_error" if "model" in parameters else "invalid_request_error")
    assert sentence in told["error"]["message"]


async def test_a_wrong_key_and_a_wrong_method_have_that_shape_too(server, client):
    wrong = await client.post("/v1/messages", json=ASKED, headers={"x-api-key": "ll_nothing"})
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
    assert (await client.get("/v1/messages")).json()["type"] == "error"
