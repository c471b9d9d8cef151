"""Tokenizers from the files of SentencePiece and of Mistral's tekken, beside what others make of the same files."""

from __future__ import annotations

import base64
import io
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from transformers import AutoTokenizer

from inference.model.tokenizer import Tokenizer, TokenizerError
from inference.model.tokenizer_files import has_tokenizer
from inference.reading import Refused
from inference.wire.protocol import Message
from tests.inference.engines import make_tokenizer

CORPUS = [
    "The ferry leaves the harbour at noon, and the keeper of the small museum writes down the weather.",
    "Die Fähre verlässt den Hafen am Mittag; der Wärter schreibt das Wetter auf.",
    "def keeper(harbour):\n    return [museum for museum in harbour if museum.is_small]",
    "In 1998 there were 1,250 boats and 37 keepers in the harbour.",
    "漢字とかな交じりの文章を書く。",
] * 30
TEXTS = [
    "The keeper leaves.",
    " two  spaces   and\ttabs\n\nlines",
    "naïve 漢字 👩‍🚀 \n 12345",
    "",
    "x",
    "harbourharbour weatherkeeper",
    "▁ the mark of spaces",
]
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def random_texts(count: int) -> list[str]:
    """Texts of letters that merge, drawn anew each time alike."""
    draw = random.Random(7)
    letters = "aeht nrsKéü漢\n 1<>/"
    return ["".join(draw.choices(letters, k=draw.randrange(1, 60))) for _ in range(count)]


def train(directory: Path, **options: Any) -> sentencepiece.SentencePieceProcessor:
    """Train a small model of SentencePiece and save it as the only file of a tokenizer."""
    settings = {
        "model_type": "bpe",
        "vocab_size": 500,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<mask>"],
        "control_symbols": ["[INST]", "[/INST]"],
        "minloglevel": 2,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, **{**settings, **options}
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def test_a_sentencepiece_file_alone_gives_its_own_tokens(tmp_path: Path) -> None:
    truth, ours = train(tmp_path), Tokenizer(tmp_path)
    for text in [*TEXTS, *random_texts(300)]:
        if not text.startswith((" ", "▁")):  # before a space transformers puts no other, and so do we
            assert ours.encode_text(text) == truth.encode(text), repr(text)
    assert ours.vocab_size == truth.vocab_size()
    assert ours.eos_ids == {truth.eos_id()}
    assert ours.names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": ""}


@pytest.mark.parametrize("settings", [{}, {"legacy": True}, {"legacy": False}, {"add_prefix_space": False}])
def test_a_sentencepiece_file_gives_the_tokens_that_transformers_finds(tmp_path: Path, settings: Any) -> None:
    train(tmp_path)
    saved = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **settings}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(saved))
    ours, theirs = Tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    prompt = "<s>[INST] The keeper[/INST]In 1998<s>harbour"
    for text in [*TEXTS, *random_texts(100), prompt]:
        assert ours.encode(text) == theirs(text).input_ids[text.startswith("<s>") :], repr(text)


def test_without_a_dummy_prefix_nothing_is_put_before_a_text(tmp_path: Path) -> None:
    truth, ours = train(tmp_path, add_dummy_prefix=False), Tokenizer(tmp_path)
    for text in [*TEXTS, *random_texts(100)]:
        assert ours.encode_text(text) == truth.encode(text), repr(text)


def test_a_text_is_normalized_as_the_file_says(tmp_path: Path) -> None:
    options = {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}
    truth, ours = train(tmp_path, **options), Tokenizer(tmp_path)
    for text in [*TEXTS, "ﬁne ①  Ｋｅｅｐｅｒ "]:
        assert ours.encode_text(text) == truth.encode(text), repr(text)


def test_texts_come_back_and_control_tokens_are_text_where_a_user_writes_them(tmp_path: Path) -> None:
    truth, ours = train(tmp_path), Tokenizer(tmp_path)
    text = "The keeper 漢字 👩‍🚀 </s>[INST]"
    guarded = ours.encode_guarded(ours.guard(text))
    assert guarded[0] == truth.bos_id()
    assert not {truth.eos_id(), truth.piece_to_id("[INST]")} & set(guarded)
    assert ours.decode(guarded) == f" {text}"


def test_nothing_begins_a_text_where_the_settings_say_so(tmp_path: Path) -> None:
    train(tmp_path)
    assert Tokenizer(tmp_path).encode("keeper")[0] == 1
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert 1 not in Tokenizer(tmp_path).encode("keeper")


def test_tokens_beside_the_file_are_added(tmp_path: Path) -> None:
    truth = train(tmp_path)
    size = truth.vocab_size()
    token = {"content": "<|im_end|>", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "eos_token": "<|im_end|>"}
    settings |= {"added_tokens_decoder": {str(size): {**token, "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": size}))
    ours, theirs = Tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (ours.vocab_size, ours.eos_ids) == (size + 1, {size})
    text = "keeper<|im_end|> \n harbour"
    assert ours.encode(text) == theirs(text).input_ids


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no model at all", "is damaged, or not SentencePiece's"),
        (b"", "holds no pieces"),
        ("unigram", "holds a unigram model, and byte-pair encodings are read; save it as tokenizer.json"),
        ("cut", "is damaged"),
    ],
)
def test_a_file_that_is_not_read_is_refused_with_what_would_be_right(
    tmp_path: Path, content: Any, sentence: str
) -> None:
    if content == "unigram":
        train(tmp_path, model_type="unigram", vocab_size=340)
    elif content == "cut":
        train(tmp_path)
        whole = (tmp_path / "tokenizer.model").read_bytes()
        (tmp_path / "tokenizer.model").write_bytes(whole[: len(whole) // 2])
    else:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=sentence):
        Tokenizer(tmp_path)


def ranks_of_bytes(size: int) -> dict[bytes, int]:
    """Ranks as a training on `CORPUS` finds them: the bytes, then the commonest pairs of what there is."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    words = [[bytes([byte]) for byte in word.encode()] for text in set(CORPUS) for word in text.split(" ")]
    while len(ranks) < size:
        counts: dict[tuple[bytes, bytes], int] = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        ranks.setdefault(b"".join(best), len(ranks))
        words = [merged(word, best) for word in words]
    return ranks


def merged(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    out: list[bytes] = []
    for part in word:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def write_tekken(directory: Path, ranks: dict[bytes, int], num_special: int, names: list[str] | None) -> Path:
    """A tekken.json with a token more than it says that it uses, as the published ones have many."""
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(data).decode(), "token_str": None}
        for data, rank in ranks.items()
    ]
    unused = {"rank": len(vocab), "token_bytes": base64.b64encode(b"unused and long").decode(), "token_str": None}
    config = {
        "pattern": PATTERN,
        "num_vocab_tokens": len(vocab) + 1,
        "default_vocab_size": num_special + len(vocab),
        "default_num_special_tokens": num_special,
        "version": "v3",
    }
    special = [{"rank": n, "token_str": name, "is_control": True} for n, name in enumerate(names or ())]
    saved = {"config": config, "vocab": [*vocab, unused]} | ({"special_tokens": special} if names else {})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tekken.json").write_text(json.dumps(saved))
    return directory


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    return ranks_of_bytes(420)


@pytest.mark.parametrize("names", [None, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]])
def test_a_tekken_file_gives_the_tokens_that_tiktoken_finds(
    tmp_path: Path, ranks: dict[bytes, int], names: list[str] | None
) -> None:
    ours = Tokenizer(write_tekken(tmp_path, ranks, 30, names))
    truth = tiktoken.Encoding("tekken", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    for text in [*TEXTS, *random_texts(300), *CORPUS[:5]]:
        assert ours.encode_text(text) == [30 + id for id in truth.encode_ordinary(text)], repr(text)
        assert ours.decode(ours.encode_text(text)) == text
    assert ours.vocab_size == 30 + len(ranks)
    assert (ours.encode("[INST]hi[/INST]")[:2], ours.eos_ids) == ([1, 3], {2})
    assert ours.symbol(29) == "<SPECIAL_29>"


def test_a_tekken_base_has_its_template_and_guards_its_control_tokens(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    write_tekken(tmp_path, ranks, 30, None)
    template = "{{ bos_token }}{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    ours = Tokenizer(tmp_path)
    ids = ours.encode_chat((Message("user", "The keeper[/INST]"),))
    assert ids == [1, 3, *ours.encode_text("The keeper[/INST]"), 4]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vocab": None}, "is damaged, or another format"),
        ({"config": {}}, "is damaged, or another format"),
        ({"vocab": "gap"}, "has gaps in its ranks"),
    ],
)
def test_a_tekken_file_that_is_not_whole_is_refused(
    tmp_path: Path, ranks: dict[bytes, int], change: dict[str, Any], sentence: str
) -> None:
    path = write_tekken(tmp_path, ranks, 30, None) / "tekken.json"
    saved = json.loads(path.read_text())
    if change == {"vocab": "gap"}:
        change = {"vocab": saved["vocab"][:5] + saved["vocab"][6:]}
    path.write_text(json.dumps(saved | change))
    with pytest.raises(TokenizerError, match=sentence):
        Tokenizer(tmp_path)


def test_a_directory_has_a_tokenizer_if_it_has_one_of_its_files(tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert has_tokenizer(tmp_path)


SOUND = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    "decoder": None,
}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "7",
        {},
        {"model": None},
        SOUND | {"model": {"type": "Unknown"}},
        SOUND | {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
        SOUND | {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        SOUND | {"added_tokens": [{"id": "x"}]},
        SOUND | {"added_tokens": 7},
        SOUND
        | {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
    ],
)
def test_a_tokenizer_that_is_damaged_is_refused_in_a_sentence(tmp_path: Path, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"tokenizer"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    "settings",
    ["{", "[1]", {"chat_template": 7}, {"chat_template": [{"name": "a"}]}, {"chat_template": [7]}, {"eos_token": 7}],
)
def test_settings_that_are_damaged_are_refused_in_a_sentence(tmp_path: Path, settings: Any) -> None:
    directory = make_tokenizer(tmp_path)
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (directory / "tokenizer_config.json").write_text(text)
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(Refused, match=r"is not JSON|holds no object|it is a text|its name is a text"):
        Tokenizer(directory)
