"""The official client calls the API as it would OpenAI's own."""

from __future__ import annotations

import re

import openai
import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async

from inference.adapters.identity import blended_digest, composed_digest
from inference.wire.protocol import (
    AdapterRef,
    Alternative,
    Component,
    Delta,
    Failed,
    Finished,
    GateRef,
    Stats,
    TokenLogprob,
)
from loraland.catalogue.blends import as_values
from loraland.catalogue.composition import Composition
from loraland.generations.models import Generation
from tests.loraland.scripted_worker import FINGERPRINT
from tests.patience import PATIENCE

HELLO = [{"role": "user", "content": "one two three"}]


@pytest_asyncio.fixture
async def client(server, secret):
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=secret, max_retries=0, timeout=PATIENCE
    ) as client:
        yield client


async def test_a_chat_is_answered_whole_with_usage_and_digest(client, answering, emotion):
    worker = answering()
    done = await client.chat.completions.create(model="emotion", messages=HELLO, seed=3, max_tokens=9)
    (choice,) = done.choices
    assert (choice.message.content, choice.finish_reason) == ("one two three", "stop")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (7, 3, 10)
    assert done.usage.prompt_tokens_details.cached_tokens == 4
    assert (done.object, done.model, done.system_fingerprint) == ("chat.completion", "emotion", FINGERPRINT)
    assert done.loraland["digest"] == "a" * 64
    assert done.loraland["seed"] == 3
    (request,) = worker.seen
    assert (request.sampling.max_tokens, request.sampling.temperature) == (9, 0.0)
    assert request.tenant.startswith("key:")


async def test_a_chat_streams_in_pieces_and_ends_with_its_usage(client, answering, emotion):
    answering()
    options = {"include_usage": True}
    stream = await client.chat.completions.create(model="emotion", messages=HELLO, stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert texts == ["one", " two", " three"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-2].loraland["digest"] == "a" * 64
    assert chunks[-2].system_fingerprint == FINGERPRINT
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 10)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


async def test_a_plain_completion_is_answered_whole_and_in_pieces(client, answering):
    answering()
    done = await client.completions.create(model="base", prompt="one two")
    assert (done.object, done.choices[0].text, done.choices[0].finish_reason) == ("text_completion", "one two", "stop")
    assert done.loraland["digest"] == ""
    stream = await client.completions.create(model="base", prompt=["one two"], stream=True)
    assert [chunk.choices[0].text async for chunk in stream] == ["one", " two", ""]


async def test_the_fields_of_a_template_stand_in_for_messages_and_prompt(client, answering, emotion):
    worker = answering()
    inputs = {"inputs": {"text": "so happy"}}
    chat = await client.chat.completions.create(model="emotion", messages=None, extra_body=inputs)
    plain = await client.completions.create(model="emotion", prompt=None, extra_body=inputs)
    assert (chat.choices[0].message.content, plain.choices[0].text) == ("so happy", "so happy")
    assert [request.inputs for request in worker.seen] == [{"text": "so happy"}] * 2


async def test_a_version_is_named_by_the_beginning_of_its_digest(client, answering, emotion, publish):
    await sync_to_async(publish)("emotion", digest="b", status="retired")
    answering()
    done = await client.chat.completions.create(model="emotion@bbbbbbbb", messages=HELLO)
    assert done.loraland["digest"] == "b" * 64


async def test_all_sampling_parameters_reach_the_worker(client, answering):
    worker = answering()
    ours = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True, "min_tokens": 2}
    await client.chat.completions.create(
        model="base",
        messages=HELLO,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.3,
        frequency_penalty=-0.3,
        seed=11,
        stop=["x", "y"],
        max_completion_tokens=12,
        logprobs=True,
        top_logprobs=2,
        extra_body=ours,
    )
    sampling = worker.seen[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 5, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.2, 0.3, -0.3)
    assert (sampling.seed, sampling.stop, sampling.max_tokens, sampling.min_tokens) == (11, ("x", "y"), 12, 2)
    assert (sampling.ignore_eos, sampling.logprobs) == (True, 2)


async def test_what_is_left_out_may_be_as_the_base_has_it_and_then_the_answer_tells(client, answering):
    stats = Stats(prompt_tokens=1, completion_tokens=1, defaults={"top_p": 0.8})
    worker = answering(lambda request: [Delta(request.id, "joy", (5,)), Finished(request.id, "done", stats)])
    done = await client.chat.completions.create(model="base", messages=HELLO, temperature=0.5)
    assert worker.seen[0].sampling.unset == ("top_p", "top_k", "min_p", "typical_p", "repetition_penalty")
    assert done.loraland["defaults"] == {"top_p": 0.8}
    response = await client.responses.create(model="base", input="one", temperature=0.5)
    assert (response.temperature, response.top_p) == (0.5, 0.8)


async def test_an_answer_in_which_nothing_stood_in_tells_nothing(client, answering):
    answering()
    done = await client.completions.create(model="base", prompt="one two")
    assert "defaults" not in done.loraland


async def test_logprobs_come_in_the_shape_of_each_kind(client, answering):
    token = TokenLogprob("joy", 5, -0.25, top=(Alternative("joy", 5, -0.25), Alternative("fear", 6, -2.0)))
    stats = Stats(prompt_tokens=1, completion_tokens=1)
    answering(lambda request: [Delta(request.id, "joy", (5,), (token,)), Finished(request.id, "length", stats)])
    chat = await client.chat.completions.create(model="base", messages=HELLO, logprobs=True, top_logprobs=2)
    (told,) = chat.choices[0].logprobs.content
    assert (told.token, told.logprob, [rival.token for rival in told.top_logprobs]) == ("joy", -0.25, ["joy", "fear"])
    assert chat.choices[0].finish_reason == "length"
    plain = await client.completions.create(model="base", prompt="x", logprobs=2)
    logprobs = plain.choices[0].logprobs
    assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (["joy"], [-0.25], [0])
    assert logprobs.top_logprobs == [{"joy": -0.25, "fear": -2.0}]


async def test_a_failure_before_the_first_token_has_a_status_and_a_sentence(client, answering):
    answering(lambda request: [Failed(request.id, "prompt_too_long", "Shorten it by 12 tokens.")])
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="Shorten it by 12 tokens") as refused:
            await client.chat.completions.create(model="base", messages=HELLO, stream=stream)
        assert refused.value.code == "context_length_exceeded"


async def test_a_failure_in_mid_stream_is_told_as_an_error(client, answering):
    answering(lambda request: [Delta(request.id, "one"), Failed(request.id, "worker_lost", "Send it again.")])
    stream = await client.chat.completions.create(model="base", messages=HELLO, stream=True)
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", "one"]
    with pytest.raises(openai.APIError, match="Send it again"):
        await anext(stream)


async def test_the_models_are_the_base_the_adapters_and_their_versions(client, emotion, publish):
    await sync_to_async(publish)("elsewhere", base="Mistral-7B-v0.1")
    await sync_to_async(publish)("emotion", digest="b", status="rejected")
    models = {model.id: model for model in (await client.models.list()).data}
    assert list(models) == ["base", "auto", "emotion", "emotion@aaaaaaaaaaaa"]
    assert models["emotion"].loraland["fields"] == ["text"]
    assert (await client.models.retrieve("emotion@aaaaaa")).loraland["digest"] == "a" * 64


@pytest.mark.parametrize(
    "name", ["nothing", "emo\0tion", "emotion@cccccc", "emotion@", "emotion@zz", "elsewhere", "base@aaaaaa"]
)
async def test_an_unknown_model_is_not_found(client, emotion, publish, name):
    await sync_to_async(publish)("elsewhere", base="Mistral-7B-v0.1")
    with pytest.raises(openai.NotFoundError) as refused:
        await client.chat.completions.create(model=name, messages=HELLO)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest_asyncio.fixture
async def parts(emotion, publish):
    """`emotion` of rank 8, a second adapter, a DoRA, and one of a high rank."""
    await type(emotion).objects.filter(pk=emotion.pk).aupdate(rank=8)
    for slug, digest, fields in (
        ("topic", "b", {"rank": 16}),
        ("dora", "c", {"rank": 4, "config": {"use_dora": True}}),
        ("large", "d", {"rank": 60}),
    ):
        await sync_to_async(publish)(slug, digest=digest, **fields)
    return type(emotion)


async def test_adapters_are_added_up_and_the_answer_names_each_of_them(client, answering, parts):
    worker = answering()
    done = await client.chat.completions.create(model="emotion+-0.5*topic@bbbbbb", messages=HELLO)
    (request,) = worker.seen
    components = (Component("a" * 64, 1.0), Component("b" * 64, -0.5))
    digest = composed_digest((part.digest, part.weight) for part in components)
    assert request.adapter == AdapterRef(digest, "Tweet: {text}\n", ("text",), components)
    named = [
        {"model": "emotion@aaaaaaaaaaaa", "digest": "a" * 64, "weight": 1.0},
        {"model": "topic@bbbbbbbbbbbb", "digest": "b" * 64, "weight": -0.5},
    ]
    assert (done.model, done.loraland["digest"]) == ("emotion+-0.5*topic@bbbbbb", digest)
    assert done.loraland["components"] == named
    stored = await Generation.objects.aget(pk=request.id)
    assert (stored.adapter_version_id, stored.components) == (None, named)


async def test_a_blend_is_asked_of_the_worker_with_its_gate(client, answering, parts):
    worker = answering()
    done = await client.chat.completions.create(model="arrow:1(emotion+topic)", messages=HELLO)
    (request,) = worker.seen
    components = (Component("a" * 64), Component("b" * 64))
    digest = blended_digest(["a" * 64, "b" * 64], "arrow", 1, 1.0, "")
    assert request.adapter == AdapterRef(digest, "Tweet: {text}\n", ("text",), components, GateRef("arrow", 1))
    assert (done.model, done.loraland["digest"]) == ("arrow:1(emotion+topic)", digest)
    assert [part["gate"] for part in done.loraland["components"]] == ["arrow:1"] * 2
    entry = await client.models.retrieve("arrow:1(emotion+topic)")
    assert (entry.loraland["rank"], entry.loraland["digest"]) == (24, digest)


async def test_a_registered_blend_answers_by_its_name_and_tells_its_parts_and_its_gate(
    client, answering, parts, publish
):
    versions = [await parts.objects.select_related("adapter").aget(adapter__slug=slug) for slug in ("emotion", "topic")]
    blend = Composition(tuple((version, 1.0) for version in versions), GateRef("flow", digest="f" * 64))
    of_blend = {"gate": as_values(blend.gate), "components": blend.components}
    prompt = {"template": blend.template, "fields": versions[0].fields}
    mixed = await sync_to_async(publish)("mixed", digest=blend.digest, **of_blend, **prompt)
    worker = answering()
    done = await client.chat.completions.create(model=f"mixed@{blend.digest[:12]}", messages=HELLO)
    (request,) = worker.seen
    assert request.adapter == blend.ref
    assert done.loraland["digest"] == blend.digest
    assert [(part["model"], part["gate"]) for part in done.loraland["components"]] == [
        ("emotion@aaaaaaaaaaaa", "flow"),
        ("topic@bbbbbbbbbbbb", "flow"),
    ]
    stored = await Generation.objects.aget(pk=request.id)
    assert (stored.adapter_version_id, stored.components) == (mixed.pk, blend.components)
    again = await client.chat.completions.retrieve(done.id)
    assert (again.model, again.loraland["components"]) == (str(mixed), blend.components)
    entry = next(model for model in (await client.models.list()).data if model.id == "mixed")
    assert (entry.loraland["method"], entry.loraland["components"]) == ("LoRA-Flow", blend.components)


async def test_a_sum_can_be_looked_up_and_a_lone_weight_makes_one(client, parts):
    entry = await client.models.retrieve("emotion+2*topic")
    assert (entry.loraland["rank"], entry.loraland["fields"]) == (24, ["text"])
    assert [part["weight"] for part in entry.loraland["components"]] == [1.0, 2.0]
    assert (await client.models.retrieve("0.5*emotion")).loraland["digest"] != "a" * 64
    assert (await client.models.retrieve("1*emotion")).loraland["digest"] == "a" * 64


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("emotion+half*topic", "'half' is no weight"),
        ("emotion+*topic", "'' is no weight"),
        ("emotion+nan*topic", "'nan' is no weight"),
        ("0*emotion+topic", "must not be 0"),
        ("emotion+101*topic", "nor beyond 100"),
        ("emotion+topic+emotion", "named twice"),
        ("emotion+dora", "is a DoRA"),
        ("emotion+large", "add up to 68; at most 64"),
        ("emotion+0.5*base", "The base is part of every answer"),
        ("+".join(["emotion"] * 9), "name at most 8"),
    ],
)
async def test_a_sum_without_meaning_is_refused(client, parts, name, sentence):
    with pytest.raises(openai.BadRequestError, match=re.escape(sentence)) as refused:
        await client.chat.completions.create(model=name, messages=HELLO)
    assert (refused.value.code, refused.value.param) == ("invalid_model", "model")


@pytest.mark.parametrize("name", ["emotion+", "+emotion", "emotion+nothing", "0.5*emotion@cccccc"])
async def test_a_sum_with_an_unknown_adapter_is_not_found(client, parts, name):
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model=name, messages=HELLO)


async def test_a_wrong_key_is_refused(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="ll_wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.models.list()
    assert refused.value.code == "invalid_api_key"
