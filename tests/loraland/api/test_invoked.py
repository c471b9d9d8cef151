"""Programs are told of activated adapters (aLoRA): what invokes one, and whether a prompt did."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from inference.wire.protocol import UNINVOKED, Delta, Finished, Progress, Stats

ASKED = {"model": "judge", "prompt": "Is it kind?", "max_tokens": 2}
INVOCATION = {"tokens": [1, 75], "text": "<|start|>i"}


@pytest.fixture
async def judge(publish: Any, folder: Any) -> Any:
    return await sync_to_async(publish)("judge", config={"alora_invocation_tokens": INVOCATION["tokens"]})


def invoked(place: int | None) -> Callable[[Any], list[Any]]:
    def answered(request: Any) -> list[Any]:
        running = Progress(request.id, "running", 5, invoked_at=place)
        stats = Stats(prompt_tokens=5, completion_tokens=1, invoked_at=place)
        return [running, Delta(request.id, "a", (1,)), Finished(request.id, "done", stats)]

    return answered


async def test_a_models_entry_says_what_invokes_it(http: Any, judge: Any, tokenizer: Any) -> None:
    text = tokenizer.write(INVOCATION["tokens"])
    for told in ((await http.get("/v1/models")).json()["data"], [(await http.get("/v1/models/judge")).json()]):
        (entry,) = [one for one in told if one["id"] == "judge"]
        assert entry["loraland"]["invocation"] == {"tokens": [1, 75], "text": text}
        assert all("invocation" not in one["loraland"] for one in told if one["id"] == "base")


@pytest.mark.parametrize(
    ("place", "told", "header"),
    [(UNINVOKED, {"invoked_at": None}, "1"), (3, {"invoked_at": 3}, None), (None, {}, None)],
)
async def test_an_answer_says_whether_its_prompt_invoked_the_adapter(
    http: Any, judge: Any, answering: Any, place: int | None, told: dict[str, Any], header: str | None
) -> None:
    answering(invoked(place))
    whole = await http.post("/v1/completions", json=ASKED)
    assert {key: value for key, value in whole.json()["loraland"].items() if key == "invoked_at"} == told
    assert whole.headers.get("x-loraland-not-invoked") == header
    stream = await http.post("/v1/completions", json=ASKED | {"stream": True})
    last = [line.removeprefix("data: ") for line in stream.text.splitlines() if line.startswith("data: {")][-1]
    assert {key: value for key, value in json.loads(last)["loraland"].items() if key == "invoked_at"} == told
    assert stream.headers.get("x-loraland-not-invoked") == header
