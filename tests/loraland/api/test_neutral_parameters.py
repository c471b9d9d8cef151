"""Parameters that ask for nothing are served, and labels told as ignored; what asks for more is refused by name."""

from __future__ import annotations

import pytest

ASKED = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
SILENT = [
    {"logit_bias": {}},
    {"response_format": {"type": "text"}},
    {"tools": []},
    {"functions": []},
    {"function_call": "none"},
    {"modalities": ["text"]},
    {"stop": ""},
    {"stop": [""]},
    {"seed": -1},
    {"max_tokens": -1},
    {"max_tokens": 4.0},
    {"logprobs": False, "top_logprobs": 0},
    {"detokenize": True},
    {"include_stop_str_in_output": False},
    {"bad_words": []},
    {"stop_token_ids": []},
    {"allowed_token_ids": None},
    {"chat_template_kwargs": {}},
    {"length_penalty": 1.0},
    {"no_repeat_ngram_size": 0, "typical": 1, "guidance_scale": 1, "custom_token_bans": ""},
    {"stream_options": {"include_usage": True}},
]
LABELS = [
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "reasoning_effort",
    "verbosity",
    "user",
    "dry_base",
]
REFUSED = [
    {"modalities": ["text", "audio"]},
    {"length_penalty": 2},
    {"skip_special_tokens": False},
    {"stop_token_ids": [3]},
    {"web_search_options": {}},
    {"echo": True},
    {"watermark": True},
    {"chat_template_kwargs": {"tone": "loud"}},
]


@pytest.mark.parametrize("change", SILENT, ids=str)
async def test_a_value_that_asks_for_nothing_is_served(http, answering, change):
    answering()
    answer = await http.post("/v1/chat/completions", json=ASKED | change)
    assert answer.status_code == 200, answer.text
    assert "ignored" not in answer.json()["loraland"]


@pytest.mark.parametrize("label", LABELS)
async def test_a_label_is_served_and_told_as_ignored(http, answering, label):
    answering()
    answer = await http.post("/v1/chat/completions", json=ASKED | {label: "x"})
    assert (answer.status_code, answer.json()["loraland"]["ignored"]) == (200, [label])


async def test_marks_of_messages_and_parts_are_told_as_ignored(http, answering):
    answering()
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "assistant", "content": "a", "refusal": None, "annotations": []}]
    messages += [{"role": "user", "content": [part], "name": "anna"}]
    answer = await http.post("/v1/chat/completions", json=ASKED | {"messages": messages})
    told = answer.json()["loraland"]["ignored"]
    assert told == ["messages.*.name", "messages.*.content.*.cache_control"]


async def test_an_answer_that_was_refused_elsewhere_is_a_text_of_the_chat(http, answering):
    worker = answering()
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    await http.post("/v1/chat/completions", json=ASKED | {"messages": [refusal, *ASKED["messages"]]})
    assert worker.seen[0].messages[0].content == "No."


@pytest.mark.parametrize("change", REFUSED, ids=str)
async def test_a_value_that_asks_for_what_is_not_offered_is_refused_by_name(http, change):
    answer = await http.post("/v1/chat/completions", json=ASKED | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, next(iter(change)))
    assert "leave it out" in error["message"]


async def test_without_max_tokens_an_answer_may_be_as_long_as_the_site_gives_out(http, answering, settings):
    settings.MAX_NEW_TOKENS = 700
    worker = answering()
    await http.post("/v1/chat/completions", json=ASKED)
    await http.post("/v1/completions", json={"model": "base", "prompt": "hi"})
    assert [request.sampling.max_tokens for request in worker.seen] == [700, 700]
