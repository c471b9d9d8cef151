"""What a stream tells before its end: what it has cost so far, and that the chat has outgrown the context."""

from __future__ import annotations

import json
from typing import Any

from inference.wire.protocol import Delta, Failed, Finished, Progress, Stats

ASKED = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def answered(request: Any) -> list[Any]:
    stats = Stats(prompt_tokens=5, completion_tokens=3, dropped_turns=2)
    running = Progress(request.id, "running", 5, 2)
    return [running, Delta(request.id, "a", (1,)), Delta(request.id, "b", (2, 3)), Finished(request.id, "done", stats)]


async def chunks(http, options: dict[str, bool]) -> tuple[Any, list[Any]]:
    answer = await http.post("/v1/chat/completions", json=ASKED | {"stream_options": options})
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return answer, [json.loads(line) for line in lines]


async def test_every_chunk_tells_what_the_answer_has_cost_where_that_is_asked(http, answering):
    answering(answered)
    _, told = await chunks(http, {"include_usage": True, "continuous_usage_stats": True})
    assert [chunk["usage"]["completion_tokens"] for chunk in told] == [0, 1, 3, 3, 3]
    assert {chunk["usage"]["prompt_tokens"] for chunk in told} == {5}
    assert told[-1]["choices"] == []


async def test_the_last_one_alone_tells_it_where_only_that_is_asked(http, answering):
    answering(answered)
    _, told = await chunks(http, {"include_usage": True})
    assert [chunk["usage"] is None for chunk in told] == [True, True, True, True, False]


async def test_turns_that_were_left_out_are_told_in_the_head_of_a_stream_and_of_a_whole_answer(http, answering):
    answering(answered)
    answer, told = await chunks(http, {})
    assert answer.headers["x-loraland-dropped-turns"] == "2"
    assert told[-1]["loraland"]["dropped_turns"] == 2
    whole = await http.post("/v1/chat/completions", json=ASKED | {"stream": False})
    assert whole.headers["x-loraland-dropped-turns"] == "2"


async def test_a_failure_before_the_first_token_still_has_a_status(http, answering):
    answering(lambda request: [Progress(request.id, "running", 5), Failed(request.id, "out_of_memory", "Too full.")])
    answer, _ = await chunks(http, {})
    assert answer.status_code == 503
    assert len(answer.headers["x-request-id"]) == 32
