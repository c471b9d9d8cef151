"""Prompts as token ids, and what is told of a prompt: its text, its tokens, how likely they were."""

from __future__ import annotations

import json

import pytest

from inference.wire.protocol import Alternative, Delta, Finished, Prompted, Stats, TokenLogprob

OTHER = Alternative("x", 9, -0.25)
FIRST = TokenLogprob("One", 1, 0.0)
HALF = TokenLogprob("\ufffd", 2, -2.0, "f09f", top=(OTHER,), rank=2)
REST = TokenLogprob("\ufffd", 3, -1.0, "9880", top=(OTHER,), rank=2)
LAST = TokenLogprob(" two", 4, -0.5, top=(Alternative(" two", 4, -0.5),), rank=1)
ANSWER = TokenLogprob(" three", 5, -0.125, top=(Alternative(" three", 5, -0.125),))
TEXT = "One\N{GRINNING FACE} two"
ASKED = {"model": "base", "prompt": TEXT, "max_tokens": 1}


def tell(request):
    """Answer one token; before it, if that is asked, tell the prompt in two pieces."""
    sampling = request.sampling
    told = [Prompted(request.id, (FIRST, HALF)), Prompted(request.id, (REST, LAST))]
    logprobs = (ANSWER,) if sampling.logprobs is not None else ()
    answer = [Delta(request.id, " three", (5,), logprobs)] if sampling.max_tokens else []
    end = Finished(request.id, "length", Stats(prompt_tokens=4, completion_tokens=len(answer)))
    return [*(told if sampling.prompt_logprobs is not None else ()), *answer, end]


async def complete(http, **change):
    response = await http.post("/v1/completions", json=ASKED | change)
    assert response.status_code == 200, response.text
    return response.json()["choices"]


async def stream(http, **change):
    async with http.stream("POST", "/v1/completions", json=ASKED | change | {"stream": True}) as response:
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: {")]
    return [json.loads(line)["choices"][0] for line in lines]


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2, 3], [4]]], ids=["one", "several"])
async def test_token_ids_are_the_prompt_as_they_are(http, answering, prompt):
    worker = answering(tell)
    choices = await complete(http, prompt=prompt)
    assert {request.token_ids for request in worker.seen} == ({(1, 2, 3)} if prompt == [1, 2, 3] else {(1, 2, 3), (4,)})
    assert [choice["text"] for choice in choices] == [" three"] * len(worker.seen)


async def test_an_echo_without_logprobs_is_the_text_alone(http, answering):
    worker = answering(tell)
    (choice,) = await complete(http, echo=True)
    assert (choice["text"], choice["logprobs"]) == (f"{TEXT} three", None)
    assert worker.seen[0].sampling.prompt_logprobs is None


async def test_an_echo_of_token_ids_is_their_text(http, answering):
    answering(tell)
    (choice,) = await complete(http, echo=True, prompt=[1, 2, 3, 4])
    assert (choice["text"], choice["logprobs"]) == (f"{TEXT} three", None)


@pytest.mark.parametrize("prompt", [TEXT, [1, 2, 3, 4]], ids=["text", "ids"])
async def test_an_echo_with_logprobs_tells_prompt_and_answer_in_one_list(http, answering, prompt):
    answering(tell)
    (choice,) = await complete(http, echo=True, logprobs=1, prompt=prompt)
    assert choice["text"] == f"{TEXT} three"
    assert choice["logprobs"] == {
        "tokens": ["One", "bytes:\\xf0\\x9f", "bytes:\\x98\\x80", " two", " three"],
        "token_logprobs": [None, -2.0, -1.0, -0.5, -0.125],
        "top_logprobs": [
            None,
            {"x": -0.25, "bytes:\\xf0\\x9f": -2.0},
            {"x": -0.25, "bytes:\\x98\\x80": -1.0},
            {" two": -0.5},
            {" three": -0.125},
        ],
        "text_offset": [0, 3, 3, 4, 8],
    }


async def test_no_new_token_is_asked_for_with_echo_alone(http, answering):
    worker = answering(tell)
    (choice,) = await complete(http, echo=True, logprobs=1, max_tokens=0)
    assert (choice["text"], choice["finish_reason"]) == (TEXT, "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -2.0, -1.0, -0.5]
    assert worker.seen[0].sampling.max_tokens == 0
    refused = await http.post("/v1/completions", json=ASKED | {"max_tokens": 0})
    assert (refused.status_code, "echo" in refused.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("prompt", [TEXT, [1, 2, 3, 4]], ids=["text", "ids"])
async def test_a_streamed_echo_is_the_whole_one_in_pieces(http, answering, prompt):
    answering(tell)
    (whole,) = await complete(http, echo=True, logprobs=1, prompt=prompt)
    pieces = await stream(http, echo=True, logprobs=1, prompt=prompt)
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    told = [piece["logprobs"] for piece in pieces if piece["logprobs"]]
    for name in whole["logprobs"]:
        assert [item for piece in told for item in piece[name]] == whole["logprobs"][name]


async def test_a_streamed_echo_without_logprobs_begins_with_the_prompt(http, answering):
    answering(tell)
    assert [piece["text"] for piece in await stream(http, echo=True)] == [TEXT, " three", ""]


async def test_the_opening_token_of_the_base_is_no_part_of_the_text(http, answering):
    opening = TokenLogprob("<s>", 0, 0.0, is_special=True)
    stats = Stats(prompt_tokens=2)
    answering(lambda request: [Prompted(request.id, (opening, LAST)), Finished(request.id, "length", stats)])
    (choice,) = await complete(http, echo=True, logprobs=0, max_tokens=0, prompt=" two")
    assert (choice["text"], choice["logprobs"]["text_offset"]) == (" two", [0, 0])


async def test_the_prompts_logprobs_are_told_as_vllm_tells_them(http, answering):
    worker = answering(tell)
    (choice,) = await complete(http, prompt_logprobs=1)
    half = {
        "2": {"logprob": -2.0, "rank": 2, "decoded_token": "\ufffd"},
        "9": {"logprob": -0.25, "rank": 1, "decoded_token": "x"},
    }
    assert (choice["prompt_logprobs"][:2], choice["text"]) == ([None, half], " three")
    assert list(choice["prompt_logprobs"][3]) == ["4"]
    chat = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "prompt_logprobs": 0}
    told = (await http.post("/v1/chat/completions", json=chat)).json()
    assert [list(place or ()) for place in told["prompt_logprobs"]] == [[], ["2"], ["3"], ["4"]]
    assert {request.sampling.prompt_logprobs for request in worker.seen} == {0, 1}


async def test_an_empty_suffix_is_none(http, answering):
    answering(tell)
    for suffix in ("", None):
        assert [choice["text"] for choice in await complete(http, suffix=suffix)] == [" three"]


async def test_a_filled_template_is_echoed_as_it_was_read(http, answering, emotion):
    answering(tell)
    (choice,) = await complete(http, model="emotion", prompt=None, inputs={"text": "x"}, echo=True)
    assert choice["text"] == f"{TEXT} three"
