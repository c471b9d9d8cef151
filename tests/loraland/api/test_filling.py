"""Messages before adapters with prompts of their own: what fills them, and what is told of the rest."""

from __future__ import annotations

import json

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async

from loraland.catalogue.fields import of_lines, of_object

CHATS = "/v1/chat/completions"
FIELDS = ("premise", "claim")
HISTORY = [
    {"role": "system", "content": "Always answer with the word BANANA."},
    {"role": "user", "content": "I hate this"},
    {"role": "assistant", "content": "anger"},
    {"role": "user", "content": "What a day"},
]


@pytest_asyncio.fixture
async def pair(publish) -> object:
    fields = [{"name": name, "label": name, "rows": 1} for name in FIELDS]
    return await sync_to_async(publish)("pair", template="{premise} so {claim}", fields=fields, digest="b")


def says(content: str) -> dict[str, object]:
    return {"model": "pair", "messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    "body",
    [
        {"model": "pair", "messages": [], "inputs": {"premise": "1", "claim": "b\nc"}},
        {"model": "pair", "messages": None, "inputs": {"premise": "1", "claim": "b\nc"}},
        {"model": "pair", "messages": [{"role": "user", "content": "."}], "inputs": {"premise": "1", "claim": "b\nc"}},
        says(json.dumps({"premise": 1, "claim": "b\nc"})),
        says("premise: 1\nclaim: b\nc"),
        says("Claim: b\nc\npremise: 1"),
    ],
    ids=["no messages", "null", "beside", "object", "lines", "lines turned"],
)
async def test_several_fields_are_filled(http, answering, pair, body):
    worker = answering()
    answer = await http.post(CHATS, json=body)
    assert answer.status_code == 200, answer.text
    assert (worker.seen[0].inputs, worker.seen[0].messages) == ({"premise": "1", "claim": "b\nc"}, None)


@pytest.mark.parametrize(
    "text", ["What?", '{"premise": "a"}', "premise: a", "x\npremise: a\nclaim: b", "claim: a\nclaim: b"]
)
async def test_what_does_not_fill_them_is_shown_both_forms(http, pair, text):
    answer = await http.post(CHATS, json=says(text))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "inputs_required", "inputs")
    assert '{"premise": "…", "claim": "…"}' in error["message"]
    assert "'premise: …'" in error["message"]


async def test_messages_that_are_not_used_are_told(http, answering, emotion):
    worker = answering()
    answer = await http.post(CHATS, json={"model": "emotion", "messages": HISTORY})
    about = answer.json()["loraland"]
    assert (about["unused_messages"], about["dropped_turns"]) == ([0, 1, 2], 3)
    assert answer.headers["x-loraland-unused-messages"] == "0,1,2"
    assert worker.seen[0].messages[-1].content == "What a day"


async def test_an_assistants_message_at_the_end_is_told_as_well(http, answering, emotion):
    answering()
    last = [{"role": "user", "content": "What a day"}, {"role": "assistant", "content": "The answer is"}]
    answer = await http.post(CHATS, json={"model": "emotion", "messages": last, "stream": True})
    assert answer.headers["x-loraland-unused-messages"] == "1"
    assert '"unused_messages":[1]' in answer.text


async def test_whoever_wants_every_message_used_is_refused(http, answering, emotion):
    answer = await http.post(CHATS, json={"model": "emotion", "messages": HISTORY, "truncation": "disabled"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.0")
    worker = answering()
    await http.post(CHATS, json={"model": "base", "messages": HISTORY, "truncation": "disabled"})
    assert worker.seen[0].keep_turns


async def test_a_chat_of_one_message_has_nothing_to_tell(http, answering, emotion):
    answering()
    answer = await http.post(CHATS, json={"model": "emotion", "messages": HISTORY[-1:]})
    assert "unused_messages" not in answer.json()["loraland"]
    assert "x-loraland-unused-messages" not in answer.headers


async def test_a_text_far_too_long_is_a_context_that_is_exceeded(http, answering, settings):
    answering()
    settings.MAX_INPUT_CHARS = 10
    answer = await http.post("/v1/completions", json={"model": "base", "prompt": "x" * 11})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["message"].startswith("This model's maximum context length is")


def test_numbers_of_an_object_are_written_as_they_stand():
    assert of_object('{"a": 1.50, "b": true}', ["a", "b"]) == {"a": "1.50", "b": "true"}
    assert of_object('{"a": [1], "b": ""}', ["a", "b"]) is None


def test_a_field_that_begins_like_another_is_told_apart():
    assert of_lines("text: a\ntext 2: b", ["text"]) == {"text": "a\ntext 2: b"}
    assert of_lines("text_b: 1\ntext: 2", ["text", "text_b"]) == {"text_b": "1", "text": "2"}
