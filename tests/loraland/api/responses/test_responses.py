"""Responses, as OpenAI's client asks for them and reads them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from inference.wire.protocol import Alternative, Delta, Finished, Message, Stats, TokenLogprob
from tests.patience import PATIENCE

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": CITY}


@pytest_asyncio.fixture
async def client(server, secret):
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=secret, max_retries=0, timeout=PATIENCE
    ) as client:
        yield client


def says(text: str, reason: Any = "done"):
    """A worker that answers with `text`, in pieces of three characters."""
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    stats = Stats(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
    return lambda request: [*(Delta(request.id, piece) for piece in pieces), Finished(request.id, reason, stats)]


async def test_a_text_is_answered_with_its_usage(client, answering):
    worker = answering(says("Red it is."))
    done = await client.responses.create(
        model="base",
        input="A colour?",
        instructions="Be brief.",
        max_output_tokens=9,
        metadata={"a": "b"},
        temperature=0.5,
    )
    assert (done.output_text, done.status, done.object) == ("Red it is.", "completed", "response")
    assert done.id.startswith("resp_")
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (7, 3, 10)
    assert done.usage.input_tokens_details.cached_tokens == 4
    assert (done.metadata, done.temperature, done.instructions) == ({"a": "b"}, 0.5, "Be brief.")
    assert done.loraland["ignored"] == ["metadata"]
    (request,) = worker.seen
    assert request.messages == (Message("system", "Be brief."), Message("user", "A colour?"))
    assert (request.sampling.max_tokens, request.sampling.temperature) == (9, 0.5)


async def test_a_cut_answer_is_incomplete(client, answering):
    answering(says("Red", "length"))
    done = await client.responses.create(model="base", input="A colour?")
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert done.output[0].status == "incomplete"


async def test_a_conversation_with_calls_comes_as_items(client, answering):
    worker = answering(says("Warm."))
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": text} for text in ("Is it ", "warm?")]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Bonn"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "21 degrees"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
        {"role": "user", "content": "Sure?"},
    ]
    done = await client.responses.create(model="base", input=items, tools=[WEATHER])
    assert done.output_text == "Warm."
    messages = worker.seen[0].messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert messages[1].content == "Is it warm?"
    assert json.loads(messages[2].tool_calls)[0]["function"]["name"] == "weather"
    assert (messages[3].content, messages[3].tool_call_id) == ("21 degrees", "c1")
    assert done.loraland["ignored"] == ["input.2"]


async def test_events_come_in_their_order_and_are_numbered(client, answering):
    answering(says("Red it is."))
    events = [event async for event in await client.responses.create(model="base", input="A colour?", stream=True)]
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Red it is."
    assert events[-1].response.output_text == "Red it is."
    assert events[-1].response.usage.total_tokens == 10
    assert len({event.response.id for event in (events[0], events[-1])}) == 1


async def test_the_clients_own_stream_gathers_the_answer(client, answering):
    answering(says("Red it is."))
    async with client.responses.stream(model="base", input="A colour?") as stream:
        done = await stream.get_final_response()
    assert done.output_text == "Red it is."


async def test_a_forced_call_is_an_item_and_its_arguments_stream(client, answering):
    worker = answering(says('{"city": "Bonn"}'))
    named = {"type": "function", "name": "weather"}
    asked = {"model": "base", "input": "Warm?", "tools": [WEATHER], "tool_choice": named}
    (call,) = (await client.responses.create(**asked)).output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Bonn"})
    assert call.call_id.startswith("call_")
    assert json.loads(worker.seen[0].sampling.constraint.text) == CITY
    events = [event async for event in await client.responses.create(**asked, stream=True)]
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(pieces)) == {"city": "Bonn"}
    assert [event.type for event in events][-3:] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_words_and_a_call_are_two_items(client, answering):
    answering(says('Let me see. <tool_call>{"name": "weather", "arguments": {"city": "Bonn"}}</tool_call>'))
    done = await client.responses.create(model="base", input="Warm?", tools=[WEATHER])
    assert [item.type for item in done.output] == ["message", "function_call"]
    assert done.output_text.startswith("Let me see.")
    events = [e async for e in await client.responses.create(model="base", input="Warm?", tools=[WEATHER], stream=True)]
    assert [event.output_index for event in events if event.type == "response.output_item.done"] == [0, 1]


class City(BaseModel):
    city: str


async def test_a_class_is_parsed_from_an_answer_of_its_schema(client, answering):
    worker = answering(says('{"city": "Bonn"}'))
    done = await client.responses.parse(model="base", input="Where?", text_format=City)
    assert done.output_parsed == City(city="Bonn")
    assert worker.seen[0].sampling.constraint.kind == "json_schema"


@pytest.mark.parametrize(
    ("parameters", "param", "sentence"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is kept between calls"),
        ({"conversation": "conv_1"}, "conversation", "nothing is kept between calls"),
        ({"background": True}, "background", "an answer is told while its caller waits"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type", "images"),
        ({"input": []}, "input", "[] is no input"),
        ({"input": [{"role": "poet", "content": "x"}]}, "input.0.role", '"poet" is no role'),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", '"web_search" is not offered'),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}}, "text.format", "uses not"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", '"xml"'),
        ({"text": {"fromat": {"type": "json_object"}}}, "text", "'fromat' is not offered"),
        ({"include": ["message.output_text.logprobs"], "tools": [WEATHER]}, None, "are told of texts alone"),
        ({"top_logprobs": 2}, None, "include message.output_text.logprobs as well"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
async def test_what_cannot_be_done_is_refused_by_its_name(client, parameters, param, sentence):
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(**({"model": "base", "input": "x"} | parameters))
    assert refused.value.param == param
    assert sentence in str(refused.value)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_text_of_a_message_tells_how_likely_it_was(client, answering, stream):
    first = TokenLogprob("Re", 1, -0.5, top=(Alternative("Re", 1, -0.5), Alternative("Bl", 2, -1.5)))
    second = TokenLogprob("d.", 3, -0.25, top=(Alternative("d.", 3, -0.25),), offset=2)
    worker = answering(
        lambda request: [
            Delta(request.id, "Re", (1,), (first,)),
            Delta(request.id, "d.", (3,), (second,)),
            Finished(request.id, "done", Stats()),
        ]
    )
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "stream": stream}
    answer = await client.responses.create(model="base", input="A colour?", **asked)
    events = [event async for event in answer] if stream else []
    told = (events[-1].response if stream else answer).output[0].content[0].logprobs
    assert [(one.token, one.logprob, bytes(one.bytes)) for one in told] == [("Re", -0.5, b"Re"), ("d.", -0.25, b"d.")]
    assert [other.token for other in told[0].top_logprobs] == ["Re", "Bl"]
    deltas = [event.logprobs for event in events if event.type == "response.output_text.delta"]
    assert [[one.token for one in each] for each in deltas] == ([["Re"], ["d."]] if stream else [])
    assert worker.seen[0].sampling.logprobs == 2


async def test_what_changes_nothing_passes(client, answering):
    answering(says("Red."))
    done = await client.responses.create(
        model="base",
        input="A colour?",
        store=False,
        include=["reasoning.encrypted_content"],
        reasoning={"effort": "low"},
        truncation="auto",
        text={"format": {"type": "text"}, "verbosity": "low"},
        user="me",
    )
    assert done.output_text == "Red."
