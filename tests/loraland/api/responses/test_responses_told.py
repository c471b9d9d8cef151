"""Nothing of a response's question passes unseen: it is used, refused or told."""

from __future__ import annotations

import json

import openai
import pytest

from inference.wire.protocol import Delta, Finished, TokenLogprob
from tests.loraland.api.responses.test_responses import CITY, WEATHER, client, says  # noqa: F401

FORMAT = {"type": "json_schema", "name": "city", "schema": CITY}
ASKED = {"model": "base", "input": "A colour?", "include": ["message.output_text.logprobs"]}


def spells(request):
    """A worker whose last token is a control token."""
    words = [TokenLogprob("Red", 1, -0.5), TokenLogprob("!", 2, -0.25, offset=3)]
    end = TokenLogprob("<|end|>", 3, -0.1, is_special=True, offset=4)
    told = [Delta(request.id, word.token, (word.token_id,), (word,)) for word in words]
    return [*told, Delta(request.id, "", (3,), (end,)), Finished(request.id, "done")]


async def test_a_stream_tells_each_token_once_and_all_at_its_end(client, answering):  # noqa: F811
    answering(spells)
    events = [event async for event in await client.responses.create(**ASKED, stream=True)]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    tokens = ["Red", "!", "<|end|>"]
    assert [each.token for event in deltas for each in event.logprobs] == tokens
    (text,) = [event for event in events if event.type == "response.output_text.done"]
    assert [each.token for each in text.logprobs] == tokens
    assert [each.token for each in events[-1].response.output[0].content[0].logprobs] == tokens
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_what_changes_nothing_is_told_by_its_place(client, answering):  # noqa: F811
    answering(says("Red."))
    items = [
        {"role": "user", "content": "Warm?"},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c", "output": "21", "status": "completed"},
    ]
    done = await client.responses.create(
        model="base",
        input=items,
        tools=[WEATHER | {"strict": True}],
        text={"verbosity": "low"},
        include=["reasoning.encrypted_content"],
    )
    assert done.loraland["ignored"] == ["include", "text.verbosity", "tools.0.strict", "input.1.id", "input.2.status"]


async def test_an_answer_can_be_sent_back_as_it_came(client, answering):  # noqa: F811
    worker = answering(spells)
    done = await client.responses.create(**ASKED)
    items = [{"role": "user", "content": "A colour?"}, *done.output, {"role": "user", "content": "Sure?"}]
    await client.responses.create(model="base", input=items)
    assert [message.content for message in worker.seen[1].messages] == ["A colour?", "Red!", "Sure?"]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"text": {"format": FORMAT | {"shape": 1}}}, "text.format.shape: nothing is known"),
        ({"text": {"format": FORMAT}, "extra_body": {"guided_regex": "a+"}}, "the form of the answer is given twice"),
        ({"input": [{"role": "user", "content": "x", "lang": "en"}]}, "input.0.lang: nothing is known"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "lang": "en"}]}]},
            "input.0.content.0.lang: nothing is known",
        ),
        ({"tools": [WEATHER | {"defer_loading": True}]}, "tools.0.defer_loading: true is not offered here"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "is no item that is read here"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"prompt": {"id": "pmpt_1"}}, "nothing is kept between calls"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
async def test_what_would_change_an_answer_is_refused_by_its_place(client, parameters, sentence):  # noqa: F811
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(**({"model": "base", "input": "x"} | parameters))
    assert sentence in str(refused.value)
