"""What count_tokens says is what a real engine reads."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio
from django.conf import settings as site_settings

from inference.engine.engine import Engine
from inference.worker.worker import Worker, WorkerConfig
from tests.inference.checkpoints import make_model
from tests.inference.engines import VOCAB, make_config, make_tokenizer
from tests.loraland.api.anthropic.test_messages import WEATHER
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

HELLO = {"role": "user", "content": "A colour? <|end|>"}
CALL = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bonn"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "none", "is_error": True}
ASKED = {
    "a question": {"messages": [HELLO]},
    "a system": {"system": [{"type": "text", "text": "Be brief."}], "messages": [HELLO]},
    "an answer begun": {"messages": [HELLO, {"role": "assistant", "content": "Light"}]},
    "tools": {"messages": [HELLO], "tools": [WEATHER]},
    "calls": {
        "messages": [HELLO, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT]}],
        "tools": [WEATHER],
    },
}


@pytest_asyncio.fixture
async def engine(site_wire, settings, tmp_path):
    make_tokenizer(make_model(tmp_path / "tiny", vocab_size=VOCAB, max_position_embeddings=2048))
    settings.BASE_MODEL = str(tmp_path / "tiny")
    (tmp_path / "adapters").mkdir()
    config = make_config(tmp_path / "tiny", tmp_path / "adapters", dtype="float32")
    worker = Worker(site_wire, lambda: Engine(config), WorkerConfig(site_settings.BASE_KEY, "w"))
    running = asyncio.create_task(worker.run())
    yield
    worker.close()
    assert await asyncio.wait_for(running, PATIENCE) == 0


async def test_a_conversation_counts_what_an_engine_reads(http, engine):
    for name, asked in ASKED.items():
        body = {"model": "base", "max_tokens": 2} | asked
        answered = (await http.post("/v1/messages", json=body, timeout=PATIENCE)).json()
        counted = (await http.post("/v1/messages/count_tokens", json=body)).json()
        assert "usage" in answered, answered
        assert counted["input_tokens"] == answered["usage"]["input_tokens"], name
