from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.model.generation_config import GenerationRefused, end_ids, end_strings, own_sampling
from inference.model.tokenizer import Tokenizer
from inference.model.tokenizer_files import read_settings
from tests.inference.engines import CONTROLS, make_tokenizer

END, START = map(CONTROLS.index, ("<|end|>", "<|start|>"))
KNOWN = {"<|end|>": 0, "<|start|>": 1, "<turn>": 7}


def write(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({}, set()),
        ({"tokenizer_config": {"eos_token": {"content": "<|end|>"}}}, {0}),
        ({"tokenizer_config": {"eos_token": ["<|end|>", "<turn>"]}}, {0, 7}),
        ({"special_tokens_map": {"eos_token": "<turn>"}}, {7}),
        ({"config": {"eos_token_id": [3, 4]}, "generation_config": {"eos_token_id": 5}}, {3, 4, 5}),
        ({"config": {"text_config": {"eos_token_id": [1, 106]}, "eos_token_id": None}}, {1, 106}),
        ({"tokenizer_config": {"eos_token_id": [2, None]}, "generation_config": {"eos_token_id": [2, 9]}}, {2, 9}),
        ({"config": {"eos_token_id": -1}, "generation_config": {"eos_token_id": 5}}, {5}),
    ],
)
def test_every_file_of_a_base_tells_its_end_tokens(tmp_path: Path, files: dict[str, Any], ids: set[int]) -> None:
    write(tmp_path, **files)
    assert end_ids(tmp_path, read_settings(tmp_path), KNOWN.get) == ids


def test_a_token_that_ends_answers_is_a_control_token_though_no_file_says_so(tmp_path: Path) -> None:
    directory = make_tokenizer(tmp_path)
    saved = json.loads((directory / "tokenizer.json").read_text())
    for token in saved["added_tokens"]:
        token["special"] = False
    write(directory, tokenizer=saved, generation_config={"eos_token_id": [END, START]})
    tokenizer = Tokenizer(directory)
    assert tokenizer.eos_ids == {END, START}
    assert tokenizer.decode([START, END]) == ""
    assert START not in tokenizer.encode_guarded(tokenizer.guard("<|start|>"))


@pytest.mark.parametrize("told", [True, 2.0, "2", -7, [[2]], {"id": 2}, [2, "2"], float("nan")])
@pytest.mark.parametrize("file", ["config", "generation_config", "tokenizer_config"])
def test_an_end_that_is_no_token_is_refused(tmp_path: Path, file: str, told: Any) -> None:
    write(tmp_path, **{file: {"eos_token_id": told}})
    with pytest.raises(
        GenerationRefused, match=r"eos_token_id of .* is .*; it is the number of a token, or lists some"
    ):
        end_ids(tmp_path, read_settings(tmp_path), KNOWN.get)


@pytest.mark.parametrize("told", [7, [7], {"content": 7}])
def test_a_token_whose_name_is_no_text_is_refused(tmp_path: Path, told: Any) -> None:
    write(tmp_path, tokenizer_config={"eos_token": told})
    with pytest.raises(GenerationRefused, match="its name is a text, or an object with its content"):
        end_ids(tmp_path, read_settings(tmp_path), KNOWN.get)


def test_an_end_beyond_the_vocabulary_ends_nothing_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, config={"vocab_size": 8}, generation_config={"eos_token_id": [7, 8]})
    assert end_ids(tmp_path, {}, KNOWN.get) == {7}
    assert "eos_token_id of generation_config.json has 8, which is none of 8 tokens and ends nothing" in caplog.text


@pytest.mark.parametrize("told", [7, [7], ["a", ["b"]], {"a": 1}, True])
def test_strings_that_are_none_are_refused(tmp_path: Path, told: Any) -> None:
    write(tmp_path, generation_config={"stop_strings": told})
    with pytest.raises(GenerationRefused, match=r"has stop_strings .*; they are a text, or a list of texts"):
        end_strings(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "7", "null", "\ud800"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (own_sampling, end_strings):
        with pytest.raises(GenerationRefused, match=r"generation_config\.json"):
            read(tmp_path)


def test_strings_may_end_an_answer_too(tmp_path: Path) -> None:
    assert end_strings(tmp_path) == ()
    assert end_strings(write(tmp_path, generation_config={"stop_strings": "###"})) == ("###",)
    assert end_strings(write(tmp_path, generation_config={"stop_strings": ["a", "", "b"]})) == ("a", "b")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, {}),
        ({"temperature": 0.6, "top_p": 0.9}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.6, "top_p": None}, {"temperature": 0.6}),
        (
            {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
            {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
        ),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"num_beams": 1, "suppress_tokens": None, "no_repeat_ngram_size": 0, "bad_words_ids": []}, {}),
    ],
)
def test_a_base_says_how_its_tokens_are_chosen(tmp_path: Path, asked: Any, meant: dict[str, float]) -> None:
    assert own_sampling(write(tmp_path, generation_config=asked)) == meant


@pytest.mark.parametrize("told", ["false", 1, 0, [True]])
def test_whether_tokens_are_drawn_is_true_or_false(tmp_path: Path, told: Any) -> None:
    with pytest.raises(GenerationRefused, match=r"has do_sample .*; it is true or false"):
        own_sampling(write(tmp_path, generation_config={"do_sample": told}))


@pytest.mark.parametrize("asked", [{"num_beams": 4}, {"suppress_tokens": [3]}, {"no_repeat_ngram_size": 3}])
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, asked: Any) -> None:
    ((name, _),) = asked.items()
    with pytest.raises(GenerationRefused, match=rf"asks for {name}=.*take DEFAULT_SAMPLING=greedy"):
        own_sampling(write(tmp_path, generation_config=asked))
