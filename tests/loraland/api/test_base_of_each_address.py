"""Each address of the API with models of another base than the default one: nothing of the default one is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings

from inference.wire.contract import Wire
from inference.wire.protocol import Embedded, EngineLoad, Event, Finished, Generate, Heartbeat, Probe, Stats
from loraland.catalogue.models import AdapterVersion
from loraland.generations.models import Generation
from tests.inference.engines import make_tokenizer
from tests.loraland.scripted_worker import ScriptedWorker, echo

pytestmark = pytest.mark.django_db(transaction=True)

HI = [{"role": "user", "content": "hi there"}]
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}!{% endfor %}"
OTHERS_LOAD = EngineLoad(self_check="ok", context_length=512)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object"}}}


MODELS = ("base:Tiny-Llama", "owner/tiny-llama", "topic", "topic@bbbbbb")
CUT = [byte - ord("a") + 66 for byte in b"ere"]


def answer(request: Generate | Probe) -> list[Event]:
    assert isinstance(request, Generate)
    if request.is_embedding:
        return [Embedded(request.id, (3.0, 4.0)), Finished(request.id, "done", Stats(prompt_tokens=3))]
    return echo(request if request.token_ids is None else replace(request, prompt="ids"))


@pytest.fixture
def folders(tmp_path: Path, settings: Any, other_base: str) -> Path:
    """The files of both bases: texts of ours begin with a token that those of the other lack, its chats end otherwise,
    and it is narrower."""
    settings.MODELS_DIR = tmp_path
    make_tokenizer(tmp_path / site_settings.BASE_NAME, opening="<|start|>")
    make_tokenizer(tmp_path / other_base, TEMPLATE)
    for name, width in ((site_settings.BASE_NAME, 4), (other_base, 2)):
        (tmp_path / name / "config.json").write_text(json.dumps({"hidden_size": width}))
    return tmp_path


@pytest_asyncio.fixture
async def workers(
    site_wire: Wire, folders: Path, other_base: str, publish: Callable[..., AdapterVersion]
) -> AsyncIterator[None]:
    """A worker of each base, and an adapter of the other one."""
    await sync_to_async(publish)("topic", "b", base=other_base)
    both = [ScriptedWorker(site_wire, name.lower(), answer) for name in (site_settings.BASE_NAME, other_base)]
    async with asyncio.TaskGroup() as tasks:
        for worker in both:
            tasks.create_task(worker.run())
        await asyncio.sleep(0)
        yield
        for worker in both:
            worker.leaving = True


CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/chat/completions", {"messages": HI, "stream": True}),
    ("/v1/chat/completions", {"messages": HI, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {"messages": HI, "tools": TOOLS, "tool_choice": "required"}),
    ("/v1/chat/completions", {"messages": HI, "response_format": SCHEMA}),
    ("/v1/completions", {"prompt": "hi there"}),
    ("/v1/completions", {"prompt": [[5, 6], [7]], "n": 2}),
    ("/v1/completions", {"prompt": "hi there", "echo": True, "logprobs": 1, "max_tokens": 1}),
    ("/v1/responses", {"input": "hi there"}),
    ("/v1/messages", {"messages": HI, "max_tokens": 9}),
    ("/v1/embeddings", {"input": ["hi", "there"], "dimensions": 2}),
)


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_comes_from_the_base_of_the_model(http, workers, other_base, model):
    for address, body in CALLS:
        response = await http.post(address, json={"model": model, **body})
        assert response.status_code == 200, (address, body, response.text)
        assert await Generation.objects.exclude(base=other_base).acount() == 0, (address, body)
    assert await Generation.objects.acount() == len(CALLS) + 4, "of one call four answers, of one two"


async def test_lorax_s_addresses_too(http, workers, other_base):
    for address in ("/", "/generate", "/generate_stream", "/invocations"):
        for model in MODELS:
            for more in ({}, {"truncate": 3, "details": True}):
                response = await http.post(
                    address, json={"inputs": "hi there", "parameters": {"adapter_id": model} | more}
                )
                assert (response.status_code, response.headers["x-model-id"]) == (200, other_base), response.text
            newest = await Generation.objects.order_by("-created").afirst()
            assert (newest.base, newest.request["token_ids"]) == (other_base, CUT), (address, model)


async def test_a_sum_of_nothing_is_not_answered_by_the_default_base(http, workers):
    merged = {"ids": ["topic"], "weights": [0]}
    response = await http.post("/generate", json={"inputs": "hi", "parameters": {"merged_adapters": merged}})
    assert (response.status_code, "name it as adapter_id" in response.json()["error"]) == (422, True)


async def test_other_dimensions_are_those_of_the_default_base_alone(http, workers):
    response = await http.post("/v1/embeddings", json={"model": "base:Tiny-Llama", "input": "hi", "dimensions": 4})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "dimensions")
    assert "have 2 dimensions" in response.json()["error"]["message"]
    assert await Generation.objects.acount() == 0


async def test_tokens_are_those_of_the_base_of_the_model(http, workers):
    told = {}
    for name in ("base", *MODELS):
        for kind, body in {"text": {"prompt": "ab"}, "chat": {"messages": HI}}.items():
            response = await http.post("/tokenize", json={"model": name, **body})
            told[name, kind] = response.json()["count"]
        counted = await http.post("/v1/messages/count_tokens", json={"model": name, "messages": HI})
        told[name, "counted"] = counted.json()["input_tokens"]
    for model in MODELS:
        assert (told["base", "text"], told[model, "text"]) == (3, 2), model
        assert told["base", "chat"] != told[model, "chat"] == told[model, "counted"] == len("user: hi there!"), model
        assert (await http.post("/detokenize", json={"model": model, "tokens": CUT})).json() == {"prompt": "ere"}


async def test_what_serves_is_told_of_the_base_of_the_model(http, site_wire, folders, publish, other_base):
    await sync_to_async(publish)("topic", "b", base=other_base)
    await ScriptedWorker(site_wire, site_settings.BASE_KEY).beat()
    await site_wire.beat(Heartbeat("small", other_base.lower(), True, "3/fp32/none/cuda-h/ab", load=OTHERS_LOAD), 60)
    del http.headers["Authorization"]
    default = (await http.get("/info")).json()
    assert (default["model_id"], default["max_total_tokens"]) == (site_settings.BASE_NAME, 2048)
    default = (await http.get("/tokenizer_info")).json()
    assert (default["chat_template"] != TEMPLATE, default["model_max_length"]) == (True, 2048)
    for model in MODELS:
        for address in ("/info", "/v1/info"):
            other = (await http.get(address, params={"model": model})).json()
            assert (other["model_id"], other["max_total_tokens"]) == (other_base, 512), model
            assert (other["model_dtype"], other["model_device_type"]) == ("torch.float32", "cuda"), model
        other = (await http.get("/tokenizer_info", params={"model": model})).json()
        assert (other["chat_template"], other["model_max_length"]) == (TEMPLATE, 512), model


@pytest.mark.parametrize("address", ["/info", "/tokenizer_info"])
async def test_nobody_is_told_of_the_default_base_who_asked_for_what_is_not_served(http, folders, site_wire, address):
    for model in ("nobody", "base:Mistral-7B", "another/Tiny-Llama"):
        response = await http.get(address, params={"model": model})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found"), response.text
    twice = await http.get(f"{address}?model=base&model=base:Tiny-Llama")
    assert "2 models; give one, or none" in twice.json()["error"]["message"]


async def test_a_base_that_is_down_tells_no_length_and_not_the_other_s(http, folders, site_wire, other_base):
    await ScriptedWorker(site_wire, site_settings.BASE_KEY).beat()
    told = (await http.get("/info", params={"model": f"base:{other_base}"})).json()
    assert (told["model_id"], told["max_total_tokens"], told["model_dtype"]) == (other_base, 0, "unknown")
    assert (await http.get("/tokenizer_info", params={"model": other_base})).json()["model_max_length"] is None
