"""Embeddings in OpenAI's shape: every form of input and of answer, and a sentence for what is neither."""

from __future__ import annotations

import base64
import json
import struct

import openai
import pytest

from inference.wire.protocol import Embedded, Failed, Finished, Stats
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder

VECTORS = {"one": (3.0, 4.0), "two": (0.0, -2.0), (5, 6): (1.0, 0.0), (7,): (0.0, 1.0), "nothing": (0.0, 0.0)}


def script(request):
    assert request.is_embedding
    vector = VECTORS[request.prompt if request.prompt is not None else request.token_ids]
    return [Embedded(request.id, vector), Finished(request.id, "done", Stats(prompt_tokens=3))]


@pytest.fixture
def embed(http, answering):
    worker = answering(script)

    async def embed(input, status=200, **others):
        response = await http.post("/v1/embeddings", json={"model": "base", "input": input, **others})
        assert response.status_code == status, response.text
        return response.json() if status == 200 else response.json()["error"]

    embed.worker = worker
    return embed


@pytest.mark.parametrize(
    ("input", "expected"),
    [
        ("one", [[0.6, 0.8]]),
        (["one"], [[0.6, 0.8]]),
        (["two", "one"], [[0, -1], [0.6, 0.8]]),
        ([5, 6], [[1, 0]]),
        ([[5, 6], [7]], [[1, 0], [0, 1]]),
        ("nothing", [[0, 0]]),
    ],
    ids=json.dumps,
)
async def test_each_form_of_input_has_an_embedding_of_length_one(embed, input, expected):
    done = await embed(input)
    assert (done["object"], done["model"]) == ("list", "base")
    assert [(item["object"], item["index"]) for item in done["data"]] == [
        ("embedding", number) for number in range(len(expected))
    ]
    for item, vector in zip(done["data"], expected, strict=True):
        assert item["embedding"] == pytest.approx(vector)
    assert done["usage"] == {"prompt_tokens": 3 * len(expected), "total_tokens": 3 * len(expected)}


async def test_base64_holds_the_same_numbers_in_float32(embed):
    numbers = (await embed("one"))["data"][0]["embedding"]
    packed = base64.b64decode((await embed("one", encoding_format="base64"))["data"][0]["embedding"])
    assert list(struct.unpack("<2f", packed)) == numbers


async def test_the_sdk_reads_it(server, secret, answering):
    answering(script)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=secret, max_retries=0) as client:
        done = await client.embeddings.create(model="base", input=["one", "two"])
    assert [item.embedding for item in done.data] == [pytest.approx([0.6, 0.8]), [0, -1]]


async def test_the_dimensions_that_there_are_may_be_asked_for_and_no_others(embed):
    assert (await embed("one", dimensions=2))["data"]
    error = await embed("one", 400, dimensions=1)
    assert error["param"] == "dimensions"
    assert "Embeddings of this base have 2 dimensions and are not cut" in error["message"]


@pytest.mark.parametrize(
    ("input", "param", "sentence"),
    [
        ([], "input", "nothing in the list"),
        ([1.5], "input", "give a text, a list of texts, a list of token ids, or a list of such lists"),
        (["one", 5], "input", "give a text, a list of texts"),
        ([-1], "input", "token ids are whole numbers from 0"),
        ({"text": "one"}, "input", "give a text, a list of texts"),
        (["one"] * 2049, "input", "these are 2049 inputs; give at most 2048 in one call"),
        ("", "input", "There is no text"),
        (["one", ""], "input.1", "Input 1: There is no text"),
        ([[5, 6], []], "input", "the list at 1 has no token"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
async def test_what_is_no_input_is_told_by_its_name(embed, input, param, sentence):
    error = await embed(input, 400)
    assert sentence in error["message"]
    assert error["param"] == param
    assert embed.worker.seen == []


async def test_an_adapter_embeds_too_and_each_input_is_recorded_once(embed, emotion):
    await embed(["one", "two"], model="emotion")
    assert {request.adapter.digest for request in embed.worker.seen} == {emotion.digest}
    await Recorder("r").step(50)
    rows = [row async for row in Generation.objects.all()]
    assert [(row.status, row.text, row.stats["prompt_tokens"]) for row in rows] == [("done", "", 3)] * 2


async def test_a_text_that_is_too_long_is_an_error_of_the_call(http, answering):
    answering(lambda request: [Failed(request.id, "prompt_too_long", "The prompt has too many tokens.")])
    response = await http.post("/v1/embeddings", json={"model": "base", "input": "one"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_an_input_that_was_stopped_has_no_embedding(http, answering):
    answering(lambda request: [Finished(request.id, "stopped")])
    response = await http.post("/v1/embeddings", json={"model": "base", "input": "one"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
