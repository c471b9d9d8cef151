"""Tokenizers from the fields of GGUF files, beside those from which the fields were made and beside transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import regex
import tiktoken
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

from inference.model.byte_letters import letters
from inference.model.gguf.directory import write_directory
from inference.model.gguf.file import GgufFile
from inference.model.gguf.header import GgufError, LongArray
from inference.model.gguf.tokenizer import write_tokenizer
from inference.model.merges import merges_of
from inference.model.tokenizer import Tokenizer
from tests.inference.gguf_files import write_gguf
from tests.inference.model.test_tokenizer_files import CORPUS, TEXTS, random_texts, ranks_of_bytes, train

ASKED = [*TEXTS, *random_texts(200), *CORPUS[:5], "It's 12345 o'clock, ABCdef  7  \r\n\r\n/x", "<think>a<|end|>"]
CONTROLS = ["<|end|>", "<|start|>"]
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    return ranks_of_bytes(420)


def byte_fields(ranks: dict[bytes, int], pre: str) -> dict[str, Any]:
    plain = [letters(data) for data in ranks]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*plain, "<think>", *CONTROLS],
        "tokenizer.ggml.token_type": [*[1] * len(plain), 4, 3, 3],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges_of(plain)],
        "tokenizer.ggml.eos_token_id": len(plain) + 1,
        "tokenizer.ggml.eot_token_id": len(plain) + 2,
        "tokenizer.ggml.bos_token_id": len(plain) + 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }


def theirs(fields: dict[str, Any]) -> Any:
    names = {"model": "tokenizer_type", "pre": "pre_tokenizer_type"}
    own = {key.rpartition("ggml.")[2]: value for key, value in fields.items()}
    return convert_gguf_tokenizer("llama", {names.get(key, key): value for key, value in own.items()})[0]


@pytest.mark.parametrize("pre", ["gpt-2", "default", "llama-bpe", "dbrx", "smaug-bpe", "qwen2", "tekken", "falcon3"])
def test_a_byte_level_tokenizer_gives_the_tokens_that_transformers_finds(
    tmp_path: Path, ranks: dict[bytes, int], pre: str
) -> None:
    fields = byte_fields(ranks, pre)
    assert write_tokenizer(fields, tmp_path) == [len(ranks) + 1, len(ranks) + 2]
    ours, other = Tokenizer(tmp_path), theirs(fields)
    for text in ASKED:
        assert ours.encode(text) == other.encode(text, add_special_tokens=False).ids, repr(text)
    assert ours.template_source == "{{ messages[0].content }}"
    assert ours.names["bos_token"] == "<|start|>"


@pytest.mark.parametrize("pre", ["smollm", "refact", "starcoder", "command-r"])
def test_a_family_whose_digits_stand_alone_has_them_so(tmp_path: Path, ranks: dict[bytes, int], pre: str) -> None:
    write_tokenizer(byte_fields(ranks, pre), tmp_path)
    ours = Tokenizer(tmp_path)
    truth = tiktoken.Encoding("words", pat_str=GPT_2, mergeable_ranks=ranks, special_tokens={})
    for text in ASKED[:-1]:
        parts = [part for part in regex.split(r"(\p{N})", text) if part]
        assert ours.encode(text) == [id for part in parts for id in truth.encode_ordinary(part)], repr(text)


@pytest.mark.parametrize(("pre", "like"), [("glm4", "llama-bpe"), ("stablelm2", "qwen2"), ("olmo", "gpt-2")])
def test_a_name_that_transformers_does_not_know_is_read_as_the_one_that_means_the_same(
    tmp_path: Path, ranks: dict[bytes, int], pre: str, like: str
) -> None:
    write_tokenizer(byte_fields(ranks, pre), tmp_path)
    ours, other = Tokenizer(tmp_path), theirs(byte_fields(ranks, like))
    for text in ASKED:
        assert ours.encode(text) == other.encode(text, add_special_tokens=False).ids, repr(text)


def piece_fields(truth: Any, **changes: Any) -> dict[str, Any]:
    count = truth.vocab_size()
    kinds = [
        2 if truth.is_unknown(id) else 3 if truth.is_control(id) else 6 if truth.is_byte(id) else 1
        for id in range(count)
    ]
    kinds[truth.piece_to_id("<mask>")] = 4
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [truth.id_to_piece(id) for id in range(count)],
        "tokenizer.ggml.scores": [truth.get_score(id) for id in range(count)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": truth.bos_id(),
        "tokenizer.ggml.eos_token_id": truth.eos_id(),
        "tokenizer.ggml.unknown_token_id": truth.unk_id(),
        **changes,
    }


def test_pieces_with_scores_give_the_tokens_of_the_model_that_they_are_from(tmp_path: Path) -> None:
    truth = train(tmp_path / "sentencepiece")
    assert write_tokenizer(piece_fields(truth), tmp_path) == [truth.eos_id()]
    ours = Tokenizer(tmp_path)
    for text in [*TEXTS, *random_texts(200)]:
        if not text.startswith((" ", "▁")):
            assert ours.encode_text(text) == truth.encode(text), repr(text)
    assert ours.encode("keeper")[0] == truth.bos_id()


def test_pieces_without_a_space_before_a_text_are_read_so(tmp_path: Path) -> None:
    truth = train(tmp_path / "sentencepiece", add_dummy_prefix=False)
    write_tokenizer(piece_fields(truth, **{"tokenizer.ggml.add_space_prefix": False}), tmp_path)
    for text in TEXTS:
        assert Tokenizer(tmp_path).encode_text(text) == truth.encode(text), repr(text)


def test_control_tokens_of_phi_3_take_the_line_behind_them(tmp_path: Path) -> None:
    truth = train(tmp_path / "sentencepiece")
    write_tokenizer(piece_fields(truth, **{"general.architecture": "phi3"}), tmp_path)
    inst = truth.piece_to_id("[INST]")
    assert Tokenizer(tmp_path).encode("[INST]\nkeeper") == [truth.bos_id(), inst, *truth.encode("keeper")]


def test_two_templates_come_along(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    fields = byte_fields(ranks, "gpt-2") | {"tokenizer.chat_template.tool_use": "{{ tools | tojson }}"}
    write_tokenizer(fields, tmp_path)
    assert Tokenizer(tmp_path)._template.shows_tools


def test_a_directory_that_is_made_of_a_file_has_the_tokens_that_transformers_reads_in_it(tmp_path: Path) -> None:
    path, directory = tmp_path / "model.gguf", tmp_path / "model"
    write_gguf(path, layers=1, vocab=1500)
    directory.mkdir()
    write_directory(path, directory)
    ours, other = Tokenizer(directory), AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    saved = AutoTokenizer.from_pretrained(directory)
    for text in ASKED:
        assert ours.encode(text) == other.encode(text, add_special_tokens=False), repr(text)
        assert ours.encode(text) == saved.encode(text, add_special_tokens=False), repr(text)
    assert ours.vocab_size == 1500
    assert {saved.eos_token_id} == ours.eos_ids


def test_a_long_vocabulary_is_read_when_it_is_wanted_and_not_kept(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", layers=1, vocab=1500)
    file = GgufFile(tmp_path / "model.gguf")
    assert file.fields["tokenizer.ggml.tokens"] == LongArray(1500)
    whole = file.whole_fields()
    assert len(whole.pop("tokenizer.ggml.tokens")) == len(whole.pop("tokenizer.ggml.token_type")) == 1500
    assert whole == {key: file.fields[key] for key in whole}


def test_a_file_whose_tokenizer_is_not_read_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, layers=1)
    path.write_bytes(path.read_bytes().replace(b"default", b"martian"))
    with pytest.raises(GgufError, match=r"model\.gguf cannot be served: its tokenizer cuts words as 'martian' does"):
        write_directory(path, tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tokenizer.ggml.pre": "martian"}, "cuts words as 'martian' does, which is not known here (chatglm-bpe,"),
        ({"tokenizer.ggml.model": "bert"}, "is of the kind 'bert', and llama and gpt2 are read"),
        ({"tokenizer.ggml.tokens": None}, "holds no tokenizer"),
    ],
)
def test_what_is_not_read_is_refused_by_name(
    tmp_path: Path, ranks: dict[bytes, int], changes: dict[str, Any], sentence: str
) -> None:
    fields = {key: value for key, value in (byte_fields(ranks, "gpt-2") | changes).items() if value is not None}
    with pytest.raises(GgufError) as caught:
        write_tokenizer(fields, tmp_path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("eos_token_id", 10**6, "its eos_token_id is 1000000; the tokens are numbered from 0 to"),
        ("eot_token_id", -1, "its eot_token_id is -1; the tokens are numbered"),
        ("bos_token_id", True, "its bos_token_id is True"),
        ("unknown_token_id", 1.0, "its unknown_token_id is 1.0"),
        ("tokens", ["a", 3], "holds no tokenizer"),
        ("tokens", "abc", "holds no tokenizer"),
        ("tokens", ["a", "b", "a"], "its token 'a' is there twice"),
        ("token_type", [1, 2], "its token_type has 2 values; it has"),
        ("token_type", [1.5] * 10, "one for each token"),
        ("token_type", 1, "its token_type has 1; it has"),
        ("scores", [0.0] * 3, "its scores has 3 values; it has"),
        ("merges", ["a b c"], "its merge 'a b c' is no pair of tokens that makes another"),
        ("merges", ["ab"], "its merge 'ab' is no pair"),
        ("merges", [7], "its merge 7 is no pair"),
        ("merges", 7, "its merges are 7; they are pairs of tokens"),
        ("pre", ["gpt-2"], "its pre is ['gpt-2']; it is a text"),
        ("add_bos_token", "yes", "its add_bos_token is 'yes'; it is a truth value"),
        ("model", ["gpt2"], "is of the kind ['gpt2']"),
    ],
)
def test_fields_that_do_not_fit_the_vocabulary_are_refused(
    tmp_path: Path, ranks: dict[bytes, int], key: str, value: Any, sentence: str
) -> None:
    with pytest.raises(GgufError) as caught:
        write_tokenizer(byte_fields(ranks, "gpt-2") | {f"tokenizer.ggml.{key}": value}, tmp_path)
    assert sentence in str(caught.value)


def test_a_token_that_fills_texts_up_may_be_none_of_the_vocabulary(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    fields = byte_fields(ranks, "gpt-2") | {"tokenizer.ggml.padding_token_id": 2**32 - 1}
    write_tokenizer(fields, tmp_path)
    assert Tokenizer(tmp_path).names["pad_token"] == ""


def test_a_vocabulary_of_more_tokens_than_its_table_has_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, layers=1, fields={"tokenizer.ggml.tokens": [f"t{n}" for n in range(400)]})
    with pytest.raises(GgufError, match="it names 400 tokens, and its table has 320 rows"):
        write_directory(path, tmp_path)
