"""Tools in chats, as OpenAI's client sends them: what the worker is asked, and what the client is told."""

from __future__ import annotations

import json

import openai
import pytest
import pytest_asyncio

from inference.wire.protocol import Delta, Finished
from loraland.api.tools.asked import Function, Tools
from loraland.api.tools.forcing import schema_of
from tests.patience import PATIENCE

HELLO = [{"role": "user", "content": "Is it warm in Bonn?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "time"}}
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL = '{"name": "weather", "arguments": {"city": "Bonn"}}'
ASKED = {"model": "base", "messages": HELLO, "tools": [WEATHER, TIME]}


@pytest_asyncio.fixture
async def client(server, secret):
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=secret, max_retries=0, timeout=PATIENCE
    ) as client:
        yield client


def says(text, reason="done"):
    """A worker that answers with `text`, in pieces of three characters."""
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    return lambda request: [*(Delta(request.id, piece) for piece in pieces), Finished(request.id, reason)]


def functions(message):
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


async def test_a_named_function_is_forced_and_its_arguments_are_the_answer(client, answering):
    worker = answering(says('{"city": "Bonn"}'))
    (choice,) = (await client.chat.completions.create(**ASKED, tool_choice=NAMED)).choices
    assert functions(choice.message) == [("weather", {"city": "Bonn"})]
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
    assert choice.message.tool_calls[0].id.startswith("call_")
    (request,) = worker.seen
    assert request.sampling.constraint.kind == "json_schema"
    assert json.loads(request.sampling.constraint.text) == CITY
    assert [tool["function"]["name"] for tool in json.loads(request.tools)] == ["weather", "time"]


async def test_a_required_call_tells_its_name_and_several_come_as_a_list(client, answering):
    answering(says(CALL))
    (choice,) = (await client.chat.completions.create(**ASKED, tool_choice="required")).choices
    assert (functions(choice.message), choice.finish_reason) == ([("weather", {"city": "Bonn"})], "tool_calls")


async def test_several_required_calls_have_ids_of_their_own(client, answering):
    answering(says(f'[{CALL}, {{"name": "time", "arguments": {{}}}}]'))
    done = await client.chat.completions.create(**ASKED, tool_choice="required", parallel_tool_calls=True)
    message = done.choices[0].message
    assert functions(message) == [("weather", {"city": "Bonn"}), ("time", {})]
    assert len({call.id for call in message.tool_calls}) == 2


async def test_a_forced_call_comes_before_the_form_of_an_answer_that_is_none(client, answering):
    worker = answering(says('{"city": "Bonn"}'))
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "required": ["zzz"]}}}
    done = await client.chat.completions.create(**ASKED, tool_choice=NAMED, response_format=form)
    assert functions(done.choices[0].message) == [("weather", {"city": "Bonn"})]
    assert json.loads(worker.seen[0].sampling.constraint.text) == WEATHER["function"]["parameters"]


async def test_only_allowed_tools_are_told_and_called(client, answering):
    worker = answering(says('{"city": "Bonn"}'))
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    done = await client.chat.completions.create(**ASKED, tool_choice=choice)
    assert functions(done.choices[0].message) == [("weather", {"city": "Bonn"})]
    assert [tool["function"]["name"] for tool in json.loads(worker.seen[0].tools)] == ["weather"]


async def test_each_of_several_choices_has_its_own_calls(client, answering):
    answering(says('{"city": "Bonn"}'))
    done = await client.chat.completions.create(**ASKED, tool_choice=NAMED, n=2)
    assert [functions(choice.message) for choice in done.choices] == [[("weather", {"city": "Bonn"})]] * 2
    assert len({choice.message.tool_calls[0].id for choice in done.choices}) == 2


@pytest.mark.parametrize(
    ("choice", "text"),
    [(NAMED, '{"city": "Bonn"}'), ("required", CALL), ("auto", f"<tool_call>{CALL}</tool_call>")],
    ids=["named", "required", "auto"],
)
async def test_a_streamed_call_tells_its_name_first_and_is_the_same_as_the_whole(client, answering, choice, text):
    answering(says(text))
    stream = await client.chat.completions.create(**ASKED, tool_choice=choice, stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    deltas = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert (deltas[0].index, deltas[0].function.name, deltas[0].function.arguments) == (0, "weather", "")
    assert [delta.id for delta in deltas[1:]] == [None] * len(deltas[1:])
    assert json.loads("".join(delta.function.arguments for delta in deltas)) == {"city": "Bonn"}
    assert choices[-1].finish_reason == "tool_calls"
    assert not any(choice.delta.content for choice in choices)


async def test_words_stay_words_where_the_choice_is_free(client, answering):
    answering(says("It is < 21 degrees {there}."))
    (choice,) = (await client.chat.completions.create(**ASKED)).choices
    assert (choice.message.content, choice.message.tool_calls) == ("It is < 21 degrees {there}.", None)
    assert choice.finish_reason == "stop"
    stream = await client.chat.completions.create(**ASKED, stream=True)
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == "It is < 21 degrees {there}."


async def test_a_call_that_ran_out_of_tokens_ended_by_its_length(client, answering):
    answering(says('{"city": "Bo', "length"))
    (choice,) = (await client.chat.completions.create(**ASKED, tool_choice=NAMED)).choices
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Bo'


async def test_functions_of_old_clients_are_called_in_the_old_form(client, answering):
    answering(says('{"city": "Bonn"}'))
    old = {"functions": [WEATHER["function"]], "function_call": {"name": "weather"}}
    (choice,) = (await client.chat.completions.create(model="base", messages=HELLO, **old)).choices
    assert (choice.message.function_call.name, choice.finish_reason) == ("weather", "function_call")
    assert json.loads(choice.message.function_call.arguments) == {"city": "Bonn"}


async def test_earlier_calls_and_what_they_brought_reach_the_worker(client, answering):
    worker = answering(says("Warm."))
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    history = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"},
        {"role": "assistant", "content": None, "function_call": {"name": "time", "arguments": "{}"}},
        {"role": "function", "name": "time", "content": "noon"},
    ]
    await client.chat.completions.create(model="base", messages=history)
    messages = worker.seen[0].messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert json.loads(messages[1].tool_calls) == [call]
    assert [messages[2].tool_call_id, messages[4].tool_call_id] == ["call_1", "time"]


@pytest.mark.parametrize(
    "change",
    [
        {"tools": [], "tool_choice": "none"},
        {"tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"parallel_tool_calls": True},
    ],
)
async def test_tools_that_ask_for_nothing_change_nothing(http, answering, change):
    worker = answering(says("Warm."))
    answer = await http.post("/v1/chat/completions", json={"model": "base", "messages": HELLO} | change)
    assert answer.json()["choices"][0]["message"]["content"] == "Warm."
    assert (worker.seen[0].tools, worker.seen[0].sampling.constraint) == ("", None)


def tool(**function):
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": "weather"}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        (tool(name="is it warm?"), "tools.0.function.name"),
        (tool(name="a", parameters=[]), "tools.0.function.parameters"),
        (tool(name="a", parameters={"type": "string"}), "tools.0.function.parameters.type"),
        (tool(name="a", parameters={"type": "object", "not": {}}), "tools.0.function.parameters"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1"),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": NAMED}, "tool_choice.function.name"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages.0.tool_calls.0.function"),
    ],
)
async def test_a_wrong_tool_is_refused_by_its_place(http, change, param):
    answer = await http.post("/v1/chat/completions", json={"model": "base", "messages": HELLO} | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(param)


async def test_an_adapter_with_a_prompt_of_its_own_can_be_forced_and_not_left_free(http, answering, emotion):
    worker = answering(says('{"city": "Bonn"}'))
    asked = ASKED | {"model": "emotion"}
    answer = await http.post("/v1/chat/completions", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    answer = await http.post("/v1/chat/completions", json=asked | {"tool_choice": NAMED})
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert worker.seen[0].sampling.constraint is not None


async def test_whoever_comes_back_for_a_call_is_told_the_same(http, answering):
    answering(says(f"<tool_call>{CALL}</tool_call>"))
    first = (await http.post("/v1/chat/completions", json=ASKED | {"store": True})).json()
    again = (await http.get(f"/v1/chat/completions/{first['id']}")).json()
    assert again["choices"][0]["message"] == first["choices"][0]["message"]
    assert again["choices"][0]["finish_reason"] == "tool_calls"


def test_schemas_that_refer_to_themselves_keep_their_references_beside_others():
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "leaf": {"$ref": "#/$defs/leaf"}}}
    schema = schema_of(Tools((Function("grow", "", tree, "tools.0"), Function("cut", "", CITY, "tools.1")), "required"))
    assert schema["$defs"]["grow"]["properties"]["left"] == {"$ref": "#/$defs/grow"}
    assert schema["$defs"]["grow"]["properties"]["leaf"] == {"$ref": "#/$defs/grow/$defs/leaf"}
