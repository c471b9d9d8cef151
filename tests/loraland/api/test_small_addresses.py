"""What servers of language models tell at their root: whether they answer, with what, and in how many tokens."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings

from inference.engine.prompt import build_prompt
from inference.wire.protocol import AdapterRef, Generate, Message
from loraland.api.addresses import SMALL
from tests.inference.engines import VOCAB
from tests.loraland.scripted_worker import ScriptedWorker

HELLO = [{"role": "user", "content": "hi <|end|>"}]


@pytest.fixture
async def ready(site_wire) -> ScriptedWorker:
    worker = ScriptedWorker(site_wire, site_settings.BASE_KEY)
    await worker.beat()
    return worker


@pytest.fixture
async def stranger(http):
    """A client without a key."""
    del http.headers["Authorization"]
    return http


# whether it answers


@pytest.mark.parametrize("address", ["/health", "/ping", "/v1/health"])
async def test_the_site_is_well_once_a_worker_is_ready(stranger, site_wire, address):
    worker = ScriptedWorker(site_wire, site_settings.BASE_KEY)
    answer = await stranger.get(address)
    assert (answer.status_code, answer.json()["missing"]) == (503, ["worker"])
    await worker.beat()
    assert (await stranger.get(address)).status_code == 200
    head = await stranger.head(address)
    assert (head.status_code, head.content) == (200, b"")


async def test_the_version_and_what_serves_are_told_to_anybody(stranger, ready):
    assert (await stranger.get("/version")).json() == {"version": version("loraland")}
    info = (await stranger.get("/info")).json()
    assert (info["model_id"], info["model_pipeline_tag"]) == (site_settings.BASE_NAME, "text-generation")
    assert (info["max_total_tokens"], info["max_input_length"]) == (2048, 2047)
    assert info["version"] == version("loraland")


async def test_the_numbers_and_the_device_are_those_of_the_worker(stranger, ready, monkeypatch):
    monkeypatch.setattr("tests.loraland.scripted_worker.FINGERPRINT", "3/bf16/none/cpu-amx/ab12cd34")
    await ready.beat()
    info = (await stranger.get("/info")).json()
    assert (info["model_dtype"], info["model_device_type"]) == ("torch.bfloat16", "cpu")


@pytest.mark.parametrize("name", SMALL)
async def test_a_wrong_method_is_told_as_json_and_needs_no_cookie(stranger, name):
    method = "GET" if "tokenize" in name and name != "tokenizer_info" else "POST"
    answer = await stranger.request(method, f"/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert method not in answer.headers["Allow"]
    assert "Set-Cookie" not in answer.headers


# models


async def test_models_tell_their_context_what_answers_and_beside_what(http, emotion, ready):
    models = {model["id"]: model for model in (await http.get("/v1/models")).json()["data"]}
    assert (models["base"]["root"], models["base"]["parent"]) == (site_settings.BASE_NAME, None)
    assert (models["emotion"]["root"], models["emotion"]["parent"]) == ("emotion@aaaaaaaaaaaa", "base")
    assert {model["max_model_len"] for model in models.values()} == {2048}
    assert (await http.get("/v1/models/emotion")).json() == models["emotion"]


async def test_models_are_listed_while_no_worker_tells_the_context(http, site_wire):
    assert (await http.get("/v1/models/base")).json()["max_model_len"] is None


@pytest.mark.parametrize("address", ["/v1/models", "/v1/models/base"])
async def test_heads_are_those_of_the_answers(http, address):
    head = await http.head(address)
    assert (head.status_code, head.content) == (200, b"")


# tokens


async def test_a_prompt_is_counted_as_the_engine_counts_it(stranger, ready, tokenizer):
    prompt = "<|start|>user\nnaïve 漢字<|end|>"
    answer = (await stranger.post("/tokenize", json={"prompt": prompt, "return_token_strs": True})).json()
    expected = list(build_prompt(Generate("a", prompt=prompt), tokenizer, 2048).token_ids)
    assert answer["tokens"] == expected
    assert (answer["count"], answer["max_model_len"]) == (len(expected), 2048)
    assert answer["token_strs"][:2] == ["<|start|>", "u"]


async def test_tools_count_as_they_are_told_to_the_model(stranger, folder):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    asked = {"messages": HELLO, "chat_template_kwargs": {}}
    plain = (await stranger.post("/tokenize", json=asked | {"tools": []})).json()
    told = (await stranger.post("/tokenize", json=asked | {"tools": tools})).json()
    assert told["count"] > plain["count"]
    refused = await stranger.post("/tokenize", json={"prompt": "x", "tools": tools})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")


async def test_what_begins_a_text_is_left_out_on_request(stranger, folder):
    whole = (await stranger.post("/tokenize", json={"prompt": "ab"})).json()
    bare = (await stranger.post("/tokenize", json={"prompt": "ab", "add_special_tokens": False})).json()
    assert whole["tokens"] == [1, *bare["tokens"]]
    assert (len(bare["tokens"]), bare["max_model_len"]) == (2, None)


async def test_messages_go_through_the_template_of_whom_they_ask(http, emotion, tokenizer):
    chat = Generate("a", messages=(Message("user", "hi <|end|>"),))
    base = (await http.post("/v1/tokenize", json={"model": "base", "messages": HELLO})).json()
    assert base["tokens"] == list(build_prompt(chat, tokenizer, 2048).token_ids)
    ref = AdapterRef("a", "Tweet: {text}\n", ("text",))
    filled = list(build_prompt(Generate("a", ref, messages=chat.messages), tokenizer, 2048).token_ids)
    assert (await http.post("/tokenize", json={"model": "emotion", "messages": HELLO})).json()["tokens"] == filled
    fields = {"model": "emotion", "inputs": {"text": "hi <|end|>"}}
    assert (await http.post("/tokenize", json=fields)).json()["tokens"] == filled


async def test_inputs_as_a_text_are_told_in_the_form_of_lorax(stranger, folder):
    answer = (await stranger.post("/tokenize", json={"inputs": "é<|end|>a", "add_special_tokens": True})).json()
    assert answer[0] == {"id": 1, "text": "<|start|>", "start": 0, "stop": 0}
    assert answer[-2] == {"id": 0, "text": "<|end|>", "start": 1, "stop": 8}
    assert [(token["text"], token["start"], token["stop"]) for token in answer][1:3] == [("Ã", 0, 1), ("©", 0, 1)]
    assert (answer[-1]["text"], answer[-1]["start"], answer[-1]["stop"]) == ("a", 8, 9)


@pytest.mark.parametrize("text", ["", " ", "<|start|>a<|end|>\n b", "naïve 漢字 👩‍🚀", "\0"])
async def test_tokens_come_back_as_the_text_they_were(stranger, folder, text):
    tokens = (await stranger.post("/tokenize", json={"prompt": text, "add_special_tokens": False})).json()["tokens"]
    assert (await stranger.post("/detokenize", json={"tokens": tokens})).json() == {"prompt": text}


async def test_an_adapters_own_tokens_are_told_of_it_alone(http, publish, tokenizer):
    token = {"id": VOCAB + 3, "content": "<gene>", "special": False, "ends": False}
    await sync_to_async(publish)("bio", config={"r": 4, "lora_alpha": 8, "added_tokens": [token]})
    asked = {"prompt": "a<gene>b", "add_special_tokens": False, "return_token_strs": True}
    own = (await http.post("/tokenize", json=asked | {"model": "bio"})).json()
    assert (own["tokens"][1], own["token_strs"]) == (VOCAB + 3, ["a", "<gene>", "b"])
    told = await http.post("/detokenize", json={"model": "bio", "tokens": own["tokens"]})
    assert told.json() == {"prompt": "a<gene>b"}
    base = (await http.post("/tokenize", json=asked | {"model": "base"})).json()
    assert base["count"] == len("a<gene>b")
    refused = await http.post("/detokenize", json={"model": "base", "tokens": own["tokens"]})
    assert refused.status_code == 400


async def test_the_tokenizer_tells_its_names_and_its_template(stranger, folder):
    info = (await stranger.get("/tokenizer_info")).json()
    assert (info["eos_token"], info["bos_token"]) == ("<|end|>", None)
    assert info["chat_template"] == (folder / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "exactly one of prompt, messages and inputs, not none"),
        ({"prompt": "a", "inputs": "b"}, "prompt and inputs"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"messages": []}, "messages"),
        ({"messages": HELLO, "model": "nobody"}, "No adapter called 'nobody'"),
        ({"messages": HELLO, "add_generation_prompt": False}, "add_generation_prompt"),
        ({"inputs": {"text": "x"}}, "no prompt template"),
    ],
)
async def test_what_cannot_be_tokenized_is_refused_in_a_sentence(http, folder, body, words):
    answer = await http.post("/tokenize", content=json.dumps(body))
    assert answer.status_code in (400, 404)
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("tokens", "param"), [([1, 300], "tokens.1"), ([-1], "tokens.0"), ([True], "tokens.0"), ("12", "tokens")]
)
async def test_ids_that_the_base_does_not_have_are_refused_by_their_place(http, folder, tokens, param):
    answer = await http.post("/detokenize", json={"tokens": tokens})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_body_that_is_no_json_object_is_refused(http, folder):
    for content, words in (
        ("{", "not JSON"),
        ("[]", "a list"),
        ("\xff".encode("latin-1"), "not UTF-8"),
        ("[" * 99_999, "nested too deep"),
    ):
        answer = await http.post("/tokenize", content=content)
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True)


async def test_without_a_key_as_much_is_read_as_one_prompt_holds(http, folder, settings):
    settings.MAX_INPUT_CHARS = 10
    assert (await http.post("/tokenize", json={"prompt": "x" * 11})).json()["count"] == 12
    http.headers["Authorization"] = "Bearer ll_wrong"
    assert (await http.post("/tokenize", json={"prompt": "x"})).status_code == 401
    del http.headers["Authorization"]
    assert (await http.post("/tokenize", json={"prompt": "x" * 10})).status_code == 200
    answer = await http.post("/tokenize", json={"prompt": "x" * 11})
    assert (answer.status_code, "API key" in answer.json()["error"]["message"]) == (413, True)
    answer = await http.post("/detokenize", content=" " * 200)
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, None)


async def test_a_stranger_hears_of_no_draft(stranger, folder, publish):
    draft = await sync_to_async(publish)("secret", template="Say {text}", status="ready", publish_when_ready=False)
    body = {"model": f"secret@{draft.digest[:8]}", "messages": HELLO}
    assert (await stranger.post("/tokenize", json=body)).status_code == 404


async def test_a_site_without_the_base_beside_it_says_so(stranger, settings, tmp_path):
    settings.BASE_MODEL, settings.MODELS_DIR = "elsewhere", tmp_path
    answer = await stranger.get("/tokenizer_info")
    assert (answer.status_code, "VAR_DIR" in answer.json()["error"]["message"]) == (503, True)
