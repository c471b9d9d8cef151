"""Nothing of a message passes unseen: it is used, refused or told; and every answer has an id."""

from __future__ import annotations

import json

import pytest

from inference.wire.protocol import Delta, Finished, Message
from tests.loraland.api.anthropic.test_messages import ASKED, CITY, HELLO, WEATHER, client, post, says  # noqa: F401

COUNT = "/v1/messages/count_tokens"
FORMAT = {"type": "json_schema", "schema": CITY}
CALL = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
CACHED = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize("asked", [{"output_config": {"format": FORMAT}}, {"output_format": FORMAT}], ids=list)
async def test_an_answer_is_of_the_schema_that_was_asked_for(client, answering, asked):  # noqa: F811
    worker = answering(says('{"city": "Bonn"}'))
    await post(client, **asked)
    constraint = worker.seen[0].sampling.constraint
    assert (constraint.kind, json.loads(constraint.text)) == ("json_schema", CITY)


async def test_effort_changes_nothing_and_is_told(client, answering):  # noqa: F811
    worker = answering(says("Red."))
    done = await post(client, output_config={"effort": "low"}, speed="fast")
    assert worker.seen[0].sampling.constraint is None
    assert done["loraland"]["ignored"] == ["speed", "output_config.effort"]


async def test_a_call_that_failed_is_told_to_the_model(client, answering):  # noqa: F811
    worker = answering(says("Sorry."))
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "no such city"}
    for has_failed, text in ((True, "Error: no such city"), (False, "no such city"), (None, "no such city")):
        turns = [
            {"role": "assistant", "content": [CALL]},
            {"role": "user", "content": [result | {"is_error": has_failed}]},
        ]
        await post(client, messages=[*HELLO, *turns])
        assert worker.seen[-1].messages[-1].content == text


async def test_labels_of_blocks_and_tools_are_told(client, answering):  # noqa: F811
    answering(says("Warm."))
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "21"} | CACHED]}
    turns = [{"role": "assistant", "content": [CALL | CACHED]}, {"role": "user", "content": [result | CACHED]}]
    done = await post(client, messages=[*HELLO, *turns], tools=[WEATHER | CACHED | {"strict": True}])
    assert done["loraland"]["ignored"] == [
        "tools.0.cache_control",
        "tools.0.strict",
        "messages.1.content.0.cache_control",
        "messages.2.content.0.cache_control",
        "messages.2.content.0.content.0.cache_control",
    ]


async def test_a_forced_call_is_strict_anyway(client, answering):  # noqa: F811
    answering(says('{"city": "Bonn"}'))
    done = await post(client, tools=[WEATHER | {"strict": True}], tool_choice={"type": "any"})
    assert "ignored" not in done["loraland"]


async def test_an_answer_goes_on_from_the_assistants_last_turn(client, answering):  # noqa: F811
    worker = answering(says(" blue."))
    done = await post(client, messages=[*HELLO, {"role": "assistant", "content": "Light"}])
    assert done["content"][0]["text"] == " blue."
    assert worker.seen[0].messages[1] == Message("assistant", "Light", is_open=True)
    await post(client, messages=[*HELLO, {"role": "assistant", "content": "Red."}, *HELLO])
    assert not any(message.is_open for message in worker.seen[1].messages)


BEGUN = {"role": "assistant", "content": "Light"}


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {"messages": [BEGUN]},
            "messages.0: the answer goes on from a last turn of the assistant; send one of the user",
        ),
        ({"messages": [*HELLO, {"role": "assistant", "content": [CALL]}]}, "messages.1: a call stands last"),
        ({"messages": [*HELLO, BEGUN], "output_config": {"format": FORMAT}}, "leave out that turn, or output_config"),
        ({"messages": [*HELLO, BEGUN], "tools": [WEATHER], "tool_choice": {"type": "any"}}, "a forced tool_choice"),
    ],
    ids=["no question", "a call", "a form", "a forced call"],
)
async def test_what_cannot_be_gone_on_from_is_refused(client, parameters, sentence):  # noqa: F811
    for path in ("/v1/messages", COUNT):
        response = await client.post(path, json=ASKED | parameters)
        assert response.status_code == 400
        assert sentence in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format: "),
        ({"output_config": {"format": FORMAT | {"schema": {"not": {}}}}}, "output_config.format.schema: "),
        ({"output_config": {"form": FORMAT}}, "output_config.form: nothing is known of it here; leave it out"),
        ({"messages": [HELLO[0] | {"name": "Ann"}]}, "messages.0.name: nothing is known"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "lang": "en"}]}]}, "0.lang: nothing"),
        ({"messages": [{"role": "assistant", "content": [CALL | {"output": 1}]}]}, "0.content.0.output: nothing"),
        ({"tools": [WEATHER | {"defer_loading": True}]}, "tools.0.defer_loading: true is not offered here"),
        ({"tools": [WEATHER | {"parameters": CITY}]}, "tools.0.parameters: nothing is known"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "is_error": 1}]}]},
            "messages.0.content.0.is_error: 1 is neither true nor false",
        ),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
async def test_what_would_change_an_answer_is_refused_by_its_place(client, parameters, sentence):  # noqa: F811
    for path in ("/v1/messages", COUNT):
        response = await client.post(path, json=ASKED | parameters)
        assert response.status_code == 400
        assert sentence in response.json()["error"]["message"]


async def test_every_answer_has_an_id(client, answering, folder):  # noqa: F811
    answering(lambda request: [Delta(request.id, "Red"), Finished(request.id, "done")])
    right = await client.post("/v1/messages", json=ASKED)
    streamed = await client.post("/v1/messages", json=ASKED | {"stream": True})
    counted = await client.post(COUNT, json=ASKED)
    assert all(each.status_code == 200 and each.headers["request-id"] for each in (right, streamed, counted))
    refused = [
        await client.post("/v1/messages", json=ASKED | {"messages": []}),
        await client.post("/v1/messages", json=ASKED, headers={"x-api-key": "ll_nothing"}),
        await client.post(COUNT, json={}),
        await client.get("/v1/messages"),
        await client.post("/v1/messages/batches", json={}),
    ]
    assert [each.status_code for each in refused] == [400, 401, 400, 405, 404]
    for each in refused:
        assert each.json()["type"] == "error"
        assert each.headers["request-id"] == each.headers["x-request-id"] == each.json()["request_id"]


async def test_fields_of_an_adapter_are_counted_as_they_are_answered(client, answering, emotion, folder):  # noqa: F811
    answering(says("joy"))
    asked = {"model": "emotion", "max_tokens": 5, "inputs": {"text": "I am glad."}}
    for messages in ({}, {"messages": []}, {"messages": HELLO}):
        assert (await client.post("/v1/messages", json=asked | messages)).status_code == 200
        counted = (await client.post(COUNT, json=asked | messages)).json()
        assert counted["input_tokens"] > 4
    assert counted["loraland"] == {"unused_messages": [0]}
    wrong = await client.post(COUNT, json=asked | {"inputs": {"txt": "x"}})
    assert wrong.status_code == 400
    assert "text" in wrong.json()["error"]["message"]
