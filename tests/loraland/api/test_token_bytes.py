"""The tokens of an answer, whole and streamed: joined, their bytes are the text that is told, stop strings or not."""

from __future__ import annotations

import json

import pytest

from inference.wire.protocol import Alternative, Delta, Finished, TokenLogprob

FACE = "\N{GRINNING FACE}"
HALVES = [
    TokenLogprob("\ufffd", 1, -1.0, "f09f", top=(Alternative("\ufffd", 1, -1.0, "f09f"), Alternative("a", 3, -2.0))),
    TokenLogprob(
        "\ufffd", 2, -0.5, "9880", top=(Alternative("\ufffd", 2, -0.5, "9880"), Alternative("\ufffd", 4, -3.0, "99"))
    ),
]
WORD = TokenLogprob(" joy", 5, -0.25, offset=1)
STOP = [TokenLogprob("EN", 6, -0.5, offset=5), TokenLogprob("D", 7, -0.5, offset=7)]
END = TokenLogprob("<|end|>", 0, -0.125, is_special=True, offset=5)
MESSAGES = [{"role": "user", "content": "one"}]


def pieces(id, end):
    """An emoji of two tokens in two deltas, a word, and then `end` held back."""
    yield Delta(id, "", (1,), (HALVES[0],))
    yield Delta(id, FACE, (2,), (HALVES[1],))
    yield Delta(id, " joy", (5, end[0].token_id), (WORD, end[0]))
    for token in end[1:]:
        yield Delta(id, "", (token.token_id,), (token,))
    yield Finished(id, "done")


def script(end):
    return lambda request: list(pieces(request.id, end))


async def chat(http, stream):
    body = {"model": "base", "messages": MESSAGES, "logprobs": True, "top_logprobs": 2, "stream": stream}
    if not stream:
        choice = (await http.post("/v1/chat/completions", json=body)).json()["choices"][0]
        return choice["message"]["content"], choice["logprobs"]["content"], [choice]
    chunks = await chunks_of(http, "/v1/chat/completions", body)
    told = [chunk["logprobs"]["content"] for chunk in chunks if chunk["logprobs"]]
    return (
        "".join(chunk["delta"].get("content", "") for chunk in chunks),
        [one for each in told for one in each],
        chunks,
    )


async def chunks_of(http, path, body):
    async with http.stream("POST", path, json=body | {"stream": True}) as response:
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: {")]
    return [json.loads(line)["choices"][0] for line in lines]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("end", [STOP, [END]], ids=["stop", "control"])
async def test_joined_bytes_are_the_content(http, answering, stream, end):
    answering(script(end))
    content, tokens, _ = await chat(http, stream)
    assert content == f"{FACE} joy"
    assert [token["bytes"] for token in tokens[:2]] == [[0xF0, 0x9F], [0x98, 0x80]]
    assert [other["bytes"] for other in tokens[1]["top_logprobs"]] == [[0x98, 0x80], [0x99]]
    joined = b"".join(bytes(token["bytes"]) for token in tokens)
    assert joined.decode() == content
    assert [token["token"] for token in tokens[3:]] == (["<|end|>"] if end == [END] else [])


async def test_a_stream_tells_a_token_with_its_text(http, answering):
    answering(script(STOP))
    _, _, chunks = await chat(http, stream=True)
    at, told = 0, b""
    for chunk in chunks:
        at += len(chunk["delta"].get("content", ""))
        told += b"".join(bytes(token["bytes"]) for token in (chunk["logprobs"] or {"content": []})["content"])
        assert len(told.decode()) == at


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_completions_name_parts_of_characters_by_their_bytes_and_lose_none(http, answering, stream):
    answering(script(STOP))
    body = {"model": "base", "prompt": "x", "logprobs": 2}
    if stream:
        told = [chunk["logprobs"] for chunk in await chunks_of(http, "/v1/completions", body) if chunk["logprobs"]]
        logprobs = {name: [one for each in told for one in each[name]] for name in told[0]}
    else:
        logprobs = (await http.post("/v1/completions", json=body)).json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["bytes:\\xf0\\x9f", "bytes:\\x98\\x80", " joy"],
        "token_logprobs": [-1.0, -0.5, -0.25],
        "top_logprobs": [
            {"bytes:\\xf0\\x9f": -1.0, "a": -2.0},
            {"bytes:\\x98\\x80": -0.5, "bytes:\\x99": -3.0},
            {" joy": -0.25},
        ],
        "text_offset": [0, 0, 1],
    }


async def test_an_answer_that_was_cut_within_a_character_tells_the_part(http, answering):
    answering(lambda request: [Delta(request.id, "", (1,), (HALVES[0],)), Finished(request.id, "length")])
    for stream in (False, True):
        content, tokens, _ = await chat(http, stream)
        assert (content, [token["bytes"] for token in tokens]) == ("", [[0xF0, 0x9F]])


async def test_a_token_that_was_held_when_a_stream_broke_is_told_behind_it(http, answering):
    word = TokenLogprob("a", 3, -0.5)
    rest = [TokenLogprob(half.token, half.token_id, half.logprob, half.hex, offset=1) for half in HALVES]
    answering(
        lambda request: [
            Delta(request.id, "a", (3, 1), (word, rest[0])),
            Delta(request.id, FACE, (2,), (rest[1],)),
            Finished(request.id, "done"),
        ]
    )
    body = {"model": "base", "messages": MESSAGES, "logprobs": True, "stream": True, "store": True}
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line async for line in response.aiter_lines() if line]
    first = next(number for number, line in enumerate(lines) if line.startswith("id: "))
    id = json.loads(lines[first + 1].removeprefix("data: "))["id"]
    headers = {"Last-Event-ID": lines[first].removeprefix("id: ")}
    path = f"/v1/chat/completions/{id}"
    async with http.stream("GET", path, params={"stream": True}, headers=headers) as response:
        again = [line async for line in response.aiter_lines() if line.startswith("data: {")]
    tokens = json.loads(again[0].removeprefix("data: "))["choices"][0]["logprobs"]["content"]
    assert [token["bytes"] for token in tokens] == [[0xF0, 0x9F], [0x98, 0x80]]
