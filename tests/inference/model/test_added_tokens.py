"""A base's tokenizer with tokens of an adapter's own, beside the package tokenizers with the same tokens added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken as Truth

from inference.engine.prompt import fill
from inference.model.added_tokens import MOST, AddedToken, read_added
from inference.model.tokenizer import Detokenizer, Tokenizer
from tests.inference.engines import VOCAB, make_tokenizer

WORD, LONGER, TURN, STOP = VOCAB, VOCAB + 1, VOCAB + 2, VOCAB + 5
TOKENS = (
    AddedToken(WORD, "<gene>", is_special=False),
    AddedToken(LONGER, "<gene>s", is_special=False),
    AddedToken(TURN, "<|turn|>"),
    AddedToken(STOP, "[STOP]", ends=True),
)
OPENING = (*TOKENS, AddedToken(STOP + 1, "<|", is_special=False), AddedToken(STOP + 2, "a<|", is_special=False))
"""With words by which control tokens begin, too."""
PIECES = ["<gene>", "s", "<|turn|>", "<|end|>", "[STOP]", "<", "gene>", " a ", "é", "|>"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def own(directory: Path) -> Tokenizer:
    return Tokenizer(directory).extended(TOKENS)


@pytest.fixture(scope="module")
def truth(directory: Path) -> tokenizers.Tokenizer:
    found = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    padding = [Truth(f"<unused{number}>") for number in range(2)]
    found.add_tokens([Truth("<gene>", normalized=False), Truth("<gene>s", normalized=False)])
    found.add_special_tokens([Truth("<|turn|>"), *padding, Truth("[STOP]")])
    return found


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_a_prompt_is_read_as_its_own_tokenizer_reads_it(
    own: Tokenizer, truth: tokenizers.Tokenizer, pieces: list[str]
) -> None:
    text = "".join(pieces)
    ids = truth.encode(text, add_special_tokens=False).ids
    assert own.encode(text) == ids
    assert [span.token_id for span in own.spans(text)] == ids
    assert own.write(ids) == truth.decode(ids, skip_special_tokens=False)


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_users_words_may_hold_its_words_and_no_control_token(own: Tokenizer, pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = fill("<|turn|>{a}[STOP]", {"a": text}, own)
    assert (ids[0], ids[-1]) == (TURN, STOP)
    assert not {0, 1, TURN, STOP} & set(ids[1:-1])
    assert ids.count(WORD) + ids.count(LONGER) == text.count("<gene>")
    assert own.decode(ids) == text


@given(pieces=st.lists(st.sampled_from([*PIECES, "turn|>", "a", "a<|turn", "<|end"]), max_size=12))
def test_a_word_by_which_a_control_token_begins_opens_none(directory: Path, pieces: list[str]) -> None:
    tokenizer, text = Tokenizer(directory).extended(OPENING), "".join(pieces)
    ids = fill("a{a}", {"a": text}, tokenizer)
    assert not {0, 1, TURN, STOP} & set(ids)
    assert tokenizer.decode(ids) == f"a{text}"


def test_what_is_special_is_not_shown_and_what_ends_ends(own: Tokenizer) -> None:
    detokenizer = Detokenizer(own)
    assert [detokenizer.push(id) for id in (WORD, TURN, LONGER, STOP)] == ["<gene>", "", "<gene>s", ""]
    assert [own.text(id) for id in (WORD, TURN)] == [own.symbol(WORD), own.symbol(TURN)] == ["<gene>", "<|turn|>"]
    assert own.eos_ids == {0, STOP}
    assert own.vocab_size == STOP + 1


def test_the_base_has_none_of_them(directory: Path) -> None:
    base = Tokenizer(directory)
    assert (base.eos_ids, base.vocab_size, base.symbol(WORD)) == ({0}, VOCAB, None)
    assert not {WORD, TURN} & set(base.encode("<gene><|turn|>"))
    assert base.extended(()).encode("<gene>") == base.encode("<gene>")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("<gene>", "must be a list of up to 1000 tokens"),
        ([{}] * (MOST + 1), "must be a list of up to 1000 tokens"),
        ([{"id": 1, "content": "a", "special": True}], "an entry that is no token"),
        ([{"id": True, "content": "a", "special": True, "ends": False}], "an entry that is no token"),
        ([{"id": -1, "content": "a", "special": True, "ends": False}], "an entry that is no token"),
        ([{"id": 1, "content": " ", "special": True, "ends": False}], "an entry that is no token"),
        ([{"id": 1, "content": "<", "special": True, "ends": False}], "an entry that is no token"),
        (
            [{"id": 1, "content": "a" * 201, "special": True, "ends": False}],
            "1 to 200 characters (2 if special)",
        ),
        ([AddedToken(1, "ab").entry(), AddedToken(1, "cd").entry()], "two tokens of one id"),
        ([AddedToken(1, "ab").entry(), AddedToken(2, "ab").entry()], "two tokens of one content"),
    ],
)
def test_what_is_no_list_of_tokens_is_refused(entries: Any, sentence: str) -> None:
    tokens, (reason,) = read_added({"added_tokens": entries})
    assert tokens == ()
    assert sentence in reason


def test_tokens_come_from_a_config_as_they_went_in() -> None:
    assert read_added({"added_tokens": [token.entry() for token in TOKENS]}) == (TOKENS, [])
    assert read_added({}) == ((), [])
