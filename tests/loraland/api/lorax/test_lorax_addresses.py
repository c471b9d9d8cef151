"""LoRAX's addresses over the wire: whole, in a list and token by token, its headers and its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings

from inference.wire.protocol import Alternative, Delta, Failed, Finished, Prompted, Stats, TokenLogprob
from loraland.generations.models import Generation

WORDS = (b"one", b" \xe6\xbc", b"\xa2")
"""A word and a character in two tokens."""


def token(id: int, data: bytes, logprob: float = -0.5, special: bool = False) -> TokenLogprob:
    text = data.decode("utf-8", "replace")
    top = (Alternative("a", 70, -0.1), Alternative("b", 71, -0.2))
    return TokenLogprob(text, id, logprob, "" if text.encode() == data else data.hex(), special, top)


def answered(request, reason="done", end=True, logprob=-0.5):
    """An answer of `WORDS`, at its `end` the model's own, with what the request wants of its tokens."""
    wants = request.sampling.logprobs is not None
    events = []
    if request.sampling.prompt_logprobs is not None:
        events.append(Prompted(request.id, (token(1, b"hi", 0.0), token(2, b"!", -1.5))))
    for id, (text, data) in enumerate(zip(("one", " ", "漢"), WORDS, strict=True)):
        events.append(Delta(request.id, text, (id,), (token(id, data, logprob),) if wants else ()))
    if end:
        events.append(Delta(request.id, "", (9,), (token(9, b"<|end|>", special=True),) if wants else ()))
    stats = Stats(prompt_tokens=2, completion_tokens=3 + end, queue_ms=10, total_ms=50, seed=5)
    return [*events, Finished(request.id, reason, stats)]


def asked(stream: bool | None = None, **parameters: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"inputs": "hi!", "parameters": parameters}
    return body if stream is None else body | {"stream": stream}


async def streamed(http, address: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream; every line that begins with data is one, as LoRAX's client reads them."""
    async with http.stream("POST", address, json=body) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        return [json.loads(line.removeprefix("data:")) async for line in answer.aiter_lines() if line[:5] == "data:"]


# whole


async def test_an_answer_is_an_object_or_a_list_of_one_by_its_address(http, answering):
    worker = answering(answered)
    assert (await http.post("/generate", json=asked())).json() == {"generated_text": "one 漢"}
    for address in ("/", "/invocations"):
        assert (await http.post(address, json=asked(stream=False))).json() == [{"generated_text": "one 漢"}]
    assert (await http.post("/generate", json=asked(stream=True))).json() == {"generated_text": "one 漢"}
    assert {(request.prompt, request.messages) for request in worker.seen} == {("hi!", None)}
    assert {generation.source async for generation in Generation.objects.all()} == {"api"}


async def test_the_details_tell_every_token(http, answering):
    answering(answered)
    body = asked(details=True, decoder_input_details=True, return_k_alternatives=1, return_full_text=True)
    answer = (await http.post("/generate", json=body)).json()
    assert answer["generated_text"] == "hi!one 漢"
    tokens = answer["details"].pop("tokens")
    assert answer["details"] == {
        "prompt_tokens": 2,
        "finish_reason": "eos_token",
        "generated_tokens": 4,
        "seed": None,
        "prefill": [{"id": 1, "text": "hi", "logprob": None}, {"id": 2, "text": "!", "logprob": -1.5}],
    }
    assert [(each["id"], each["text"], each["special"]) for each in tokens] == [
        (0, "one", False),
        (1, " ", False),
        (2, "漢", False),
        (9, "<|end|>", True),
    ]
    assert tokens[0]["alternative_tokens"] == [{"id": 70, "text": "a", "logprob": -0.1}]


async def test_the_seed_is_told_where_tokens_were_drawn_and_tgis_word_for_alternatives_is_known(http, answering):
    answering(answered)
    body = asked(details=True, do_sample=True, seed=5, top_n_tokens=2)
    details = (await http.post("/generate", json=body)).json()["details"]
    assert (details["seed"], len(details["top_tokens"]), details["prefill"]) == (5, 4, [])
    assert details["top_tokens"][0][1] == {"id": 71, "text": "b", "logprob": -0.2, "special": False}


async def test_the_headers_tell_what_an_answer_cost_and_who_gave_it(http, answering, emotion):
    answering(answered)
    headers = (await http.post("/generate", json=asked(adapter_id="emotion"))).headers
    told = {name: value for name, value in headers.items() if name.startswith("x-") and "content" not in name}
    assert told.pop("x-request-id")
    assert told == {
        "x-model-id": site_settings.BASE_NAME,
        "x-adapter-id": "emotion",
        "x-prompt-tokens": "2",
        "x-generated-tokens": "4",
        "x-total-tokens": "6",
        "x-total-time": "50",
        "x-queue-time": "10",
        "x-inference-time": "40",
        "x-time-per-token": "10",
    }
    assert "x-adapter-id" not in (await http.post("/generate", json=asked())).headers


async def test_the_stop_string_is_a_part_of_the_answer(http, answering):
    held = [("one", b"one"), ("", b" E"), ("", b"ND and more")]
    answering(
        lambda request: [
            *[Delta(request.id, text, (id,), (token(id, data),)) for id, (text, data) in enumerate(held)],
            Finished(request.id, "done"),
        ]
    )
    answer = (await http.post("/generate", json=asked(stop=["END", " END"], details=True))).json()
    assert (answer["generated_text"], answer["details"]["finish_reason"]) == ("one END", "stop_sequence")
    assert [each["text"] for each in answer["details"]["tokens"]] == ["one", " E", "ND"]
    assert (await http.post("/generate", json=asked(stop=["END", " END"]))).json() == {"generated_text": "one END"}
    events = await streamed(http, "/generate_stream", asked(stop=["END", " END"]))
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"] == "one END"


async def test_the_best_of_several_comes_first_and_the_others_are_told(http, answering):
    worker = answering(lambda request: answered(request, logprob=-len(worker.seen)))
    body = asked(best_of=3, do_sample=True, details=True)
    details = (await http.post("/generate", json=body)).json()["details"]
    told = [details, *details["best_of_sequences"]]
    assert [each["tokens"][0]["logprob"] for each in told] == sorted([-1, -2, -3], reverse=True)
    assert {each["generated_text"] for each in details["best_of_sequences"]} == {"one 漢"}
    assert len({request.group for request in worker.seen}) == 1


async def test_adapters_are_named_by_their_slug_their_id_on_the_hub_and_their_weights(http, answering, publish):
    for digest, slug in (("a", "emotion"), ("b", "acme-legal")):
        await sync_to_async(publish)(slug, digest=digest)
    worker = answering(answered)
    merged = {"ids": ["emotion", "acme/legal"], "weights": [1.0, 0.5], "density": 0.0}
    for parameters in ({"adapter_id": "emotion"}, {"adapter_id": "acme/legal"}, {"merged_adapters": merged}, {}):
        assert (await http.post("/generate", json=asked(**parameters))).status_code == 200
    alone, hub, both, base = (request.adapter for request in worker.seen)
    assert (alone.digest, hub.digest, base) == ("a" * 64, "b" * 64, None)
    assert [(part.digest, part.weight) for part in both.components] == [("a" * 64, 1.0), ("b" * 64, 0.5)]


# streamed


@pytest.mark.parametrize(("address", "body"), [("/", asked(stream=True)), ("/generate_stream", asked())])
async def test_a_stream_is_an_event_a_token_and_the_last_has_the_text(http, answering, address, body):
    answering(answered)
    body["parameters"] = {"details": True, "return_full_text": True}
    events = await streamed(http, address, body)
    assert [event["token"]["text"] for event in events] == ["one", " ", "漢", "<|end|>"]
    assert [event["index"] for event in events] == [1, 2, 3, 4]
    assert {event["generated_text"] for event in events[:-1]} | {event["details"] for event in events[:-1]} == {None}
    assert events[-1]["generated_text"] == "hi!one 漢"
    details = {"finish_reason": "eos_token", "prompt_tokens": 2, "input_length": 2, "generated_tokens": 4, "seed": None}
    assert events[-1]["details"] == details


async def test_a_stream_that_fails_ends_with_an_error(http, answering):
    answering(lambda request: [*answered(request)[:2], Failed(request.id, "worker_lost", "It is lost.")])
    events = await streamed(http, "/generate_stream", asked())
    assert [event.get("error_type") for event in events] == [None, "generation"]
    assert events[-1] == {"error": "It is lost.", "error_type": "generation"}


async def test_a_stream_whose_tokens_are_gone_says_so(http, answering):
    gone = Delta("", " two")
    answering(lambda request: [*answered(request)[:1], replace(gone, id=request.id), Finished(request.id, "done")])
    (event,) = await streamed(http, "/generate_stream", asked())
    assert event["error_type"] == "incomplete_generation"


# refused


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("prompt_too_long", 422, "validation"),
        ("adapter_refused", 424, "generation"),
        ("worker_lost", 424, "generation"),
        ("internal", 424, "generation"),
    ],
)
@pytest.mark.parametrize("address", ["/generate", "/generate_stream"])
async def test_an_accepted_request_that_fails_is_told_by_whose_fault_it_is(
    http, answering, address, code, status, kind
):
    answering(lambda request: [Failed(request.id, code, "It failed.")])
    answer = await http.post(address, json=asked())
    assert (answer.status_code, answer.json()) == (status, {"error": "It failed.", "error_type": kind})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"parameters": {}}, "inputs"),
        (asked(typical_p=1.5), "parameters.typical_p"),
        (asked(adapter_id="a+*"), "no weight"),
        (asked(unheard_of=1), "unheard_of"),
        ({"inputs": ["a", "b"]}, "inputs"),
        ({"inputs": " "}, "no text"),
        (asked(stream=True, best_of=2, do_sample=True), "best_of cannot be told by a stream"),
        (asked(stream=True, decoder_input_details=True), "decoder_input_details cannot be told by a stream"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_is_wrong_with_a_request_is_a_validation_error(http, body, words):
    answer = await http.post("/", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    assert words in answer.json()["error"]


async def test_an_adapter_that_nobody_knows_is_not_found(http):
    answer = await http.post("/generate", json=asked(adapter_id="acme/none"))
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


async def test_a_full_queue_is_an_overload(http, settings):
    settings.MAX_RUNNING_PER_KEY = 0
    answer = await http.post("/generate", json=asked())
    assert (answer.status_code, answer.json()["error_type"]) == (429, "overloaded")
    assert int(answer.headers["Retry-After"]) > 0


async def test_without_a_key_nothing_is_answered_and_a_cookie_does_not_help(http):
    del http.headers["Authorization"]
    for address in ("/", "/generate", "/generate_stream", "/invocations"):
        answer = await http.post(address, json=asked(), headers={"Cookie": "sessionid=x"})
        assert (answer.status_code, answer.json()["error_type"]) == (401, "authentication")
        assert "Set-Cookie" not in answer.headers


async def test_the_page_is_there_for_who_reads_it(http):
    answer = await http.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (await http.head("/")).status_code == 200


async def test_other_methods_and_what_is_not_offered_are_told_as_json(http):
    assert (await http.get("/generate")).json()["error_type"] == "method_not_allowed"
    for address in ("/embed", "/classify", "/classify_batch"):
        answer = await http.post(address, json={"inputs": "x"})
        assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")
