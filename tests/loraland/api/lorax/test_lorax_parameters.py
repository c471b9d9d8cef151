"""What LoRAX's parameters mean here, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest
from django.conf import settings as site_settings

from inference.model.tokenizer import Tokenizer
from inference.wire.protocol import Constraint
from loraland.api.lorax.asked import GenerateRequest
from tests.inference.engines import make_tokenizer

CHAT = '[{"role": "user", "content": "hi"}]'


def ask(inputs: str = "hi", **parameters: Any) -> GenerateRequest:
    return GenerateRequest.model_validate({"inputs": inputs, "parameters": parameters})


def test_left_out_the_likeliest_tokens_are_taken_up_to_the_limit_of_the_site():
    asked = GenerateRequest.model_validate({"inputs": "hi", "parameters": None})
    sampling = asked.sampling()
    assert (sampling.temperature, sampling.seed, sampling.logprobs) == (0.0, None, None)
    assert sampling.max_tokens == site_settings.MAX_NEW_TOKENS
    assert (asked.model, asked.sources()) == ("base", [{"prompt": "hi"}])


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.5}, 0.5),
        ({"temperature": 0.5}, 0.5),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.9}, 1.0),
        ({"temperature": 1}, 0.0),
        ({"top_p": 1, "top_k": 0, "typical_p": 1}, 0.0),
        ({"typical_p": 0.9}, 1.0),
        ({"do_sample": True, "temperature": 0}, 0.0),
        ({"seed": 5}, 0.0),
    ],
    ids=str,
)
def test_what_shapes_a_draw_asks_for_one_as_in_lorax(parameters, temperature):
    assert ask(**parameters).sampling().temperature == temperature


def test_values_that_ask_for_nothing_stand_for_left_out():
    empty = {"response_format": {}, "grammar": {}, "merged_adapters": {}}
    zero = {"truncate": 0, "return_k_alternatives": 0, "top_n_tokens": 0, "top_k": -1, "seed": -1, "typical_p": 1}
    assert ask(**empty, **zero).sampling() == ask().sampling()


def test_null_stands_for_left_out_and_an_empty_stop_string_for_none():
    asked = ask(stop=["", "END"], seed=None, top_k=None, typical_p=None, watermark=False, adapter_source="hub")
    assert asked.sampling().stop == ("END",)
    assert ask(stop="END").sampling().stop == ("END",)
    assert ask(stop=[]).sampling().logprobs is None


@pytest.mark.parametrize(
    ("parameters", "logprobs", "of_prompt"),
    [
        ({"details": True}, 0, None),
        ({"details": True, "return_k_alternatives": 3, "top_n_tokens": 5}, 5, None),
        ({"decoder_input_details": True}, 0, 0),
        ({"stop": ["END"]}, 0, None),
        ({"best_of": 2, "do_sample": True}, 0, None),
        ({"return_k_alternatives": 3}, None, None),
    ],
    ids=str,
)
def test_tokens_are_told_where_somebody_needs_them(parameters, logprobs, of_prompt):
    sampling = ask(**parameters).sampling()
    assert (sampling.logprobs, sampling.prompt_logprobs) == (logprobs, of_prompt)


@pytest.mark.parametrize(
    ("adapter_id", "model"),
    [
        (None, "base"),
        ("", "base"),
        ("__base_model__", "base"),
        (site_settings.BASE_NAME.upper(), "base"),
        ("viggo", "viggo"),
        ("viggo@abcdef", "viggo@abcdef"),
        ("acme/viggo.v2", "acme-viggo.v2"),
        ("viggo+0.5*legal", "viggo+0.5*legal"),
        ("a/b/c", "a/b/c"),
    ],
)
def test_an_adapter_has_its_name_and_the_base_has_several(adapter_id, model):
    assert ask(adapter_id=adapter_id).model == model


def test_a_linear_merge_is_a_sum():
    merged = {"ids": ["viggo", "acme/legal"], "weights": [0.5, -1], "density": 0.0, "merge_strategy": "linear"}
    assert ask(merged_adapters=merged).model == "0.5*viggo+-1*acme-legal"
    assert ask(merged_adapters=merged | {"weights": [0, 1]}).model == "1*acme-legal"
    assert ask(merged_adapters=merged | {"weights": [0, 0]}).model == "base"


SCHEMA = {"type": "object", "properties": {"é": {"type": "string"}}}
AS_TEXT = '{"type": "object", "properties": {"é": {"type": "string"}}}'


@pytest.mark.parametrize(
    ("parameters", "constraint"),
    [
        ({}, None),
        ({"response_format": None, "grammar": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json_object")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Constraint("json_schema", AS_TEXT)),
        ({"grammar": {"type": "json", "value": SCHEMA}}, Constraint("json_schema", AS_TEXT)),
        ({"grammar": {"type": "json", "value": AS_TEXT}}, Constraint("json_schema", AS_TEXT)),
        (
            {"grammar": {"type": "json_schema", "value": {"name": "a", "schema": SCHEMA}}},
            Constraint("json_schema", AS_TEXT),
        ),
        ({"grammar": {"type": "regex", "value": "[0-9]{3}"}}, Constraint("regex", "[0-9]{3}")),
    ],
    ids=lambda value: str(value)[:70],
)
def test_the_form_of_an_answer_is_said_in_the_words_of_lorax_or_of_tgi(parameters, constraint):
    assert ask(**parameters).sampling().constraint == constraint


def test_a_prompt_is_cut_to_its_last_tokens(settings, tmp_path):
    settings.BASE_MODEL = str(make_tokenizer(tmp_path / "base"))
    (tmp_path / "base" / "config.json").write_text("{}")
    ids = Tokenizer(tmp_path / "base").encode("abcdef")
    assert ask("abcdef", truncate=3).sources() == [{"token_ids": tuple(ids[-3:])}]
    assert ask("abcdef", truncate=30).sources() == [{"token_ids": tuple(ids)}]


def test_messages_are_read_from_the_inputs_on_request():
    (source,) = ask(CHAT, apply_chat_template=True).sources()
    assert [(turn.role, turn.content) for turn in source["messages"]] == [("user", "hi")]


@pytest.mark.parametrize(
    ("inputs", "parameters", "words"),
    [
        ("hi", {"watermark": True}, "not watermarked"),
        ("hi", {"merged_adapters": {"ids": ["a"], "weights": [1], "merge_strategy": "ties"}}, "'ties' is not offered"),
        ("hi", {"merged_adapters": {"ids": ["a", "b"], "weights": [1]}}, "2 ids and 1 weights"),
        ("hi", {"merged_adapters": {"ids": ["a+b"], "weights": [1]}}, "'a+b' is a sum"),
        ("hi", {"merged_adapters": {"ids": ["a"], "weights": [1]}, "adapter_id": "b"}, "both name who answers"),
        ("hi", {"best_of": 2}, "needs sampling"),
        ("hi", {"best_of": 2, "do_sample": True, "seed": 1}, "leave seed out"),
        ("hi", {"apply_chat_template": True}, "messages as JSON"),
        (CHAT, {"apply_chat_template": True, "truncate": 4}, "apply_chat_template or truncate"),
        ("hi", {"max_new_tokens": 0}, "max_new_tokens"),
        ("hi", {"grammar": {"type": "lark", "value": "x"}}, "grammar"),
        ("hi", {"grammar": {"type": "regex", "value": ""}}, "grammar"),
        ("hi", {"response_format": {"type": "xml"}}, "response_format"),
        ("hi", {"response_format": {"type": "json_object", "schema": {"not": {}}}}, "uses not"),
        ("hi", {"grammar": {"type": "json", "value": "{bad"}}, "grammar"),
        ("hi", {"grammar": {"type": "regex", "value": "(a"}}, "grammar"),
        (
            "hi",
            {"response_format": {"type": "json_object"}, "grammar": {"type": "regex", "value": "a"}},
            "response_format and grammar",
        ),
        ("hi", {"return_k_alternatives": 21}, "return_k_alternatives"),
        ("hi", {"length_penalty": 2.0}, "length_penalty"),
        ("", {}, "inputs"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_would_change_an_answer_and_cannot_be_done_is_refused_by_name(inputs, parameters, words):
    with pytest.raises(pydantic.ValidationError) as refused:
        ask(inputs, **parameters)
    assert words in str(refused.value)
