"""What is told of each token of an answer: its own bytes, and where it begins in the text."""

from __future__ import annotations

import pytest

from inference.engine.answer import Answer
from inference.engine.sampler import SampledToken
from inference.model.tokenizer import Tokenizer
from inference.scheduling.sequence import Sequence
from inference.wire.contract import Resume
from inference.wire.protocol import Delta, Generate, Sampling, TokenLogprob
from tests.inference.engines import make_tokenizer

TEXT = "é a\N{GRINNING FACE}日 END of it"
PLACES = [0, 0, 1, 2, 3, 3, 3, 3, 4, 4, 4, *range(5, 15)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(make_tokenizer(tmp_path_factory.mktemp("bytes")))


def answer(tokenizer: Tokenizer, resume: Resume | None = None, **sampling: object) -> Answer:
    settings = Sampling(**{"logprobs": 1, **sampling})  # type: ignore[arg-type]
    request = Generate("a", prompt="x", sampling=settings)
    return Answer(request, "", Sequence("a", (5,), 100), tokenizer, resume)


def sampled(ids: list[int]) -> list[SampledToken]:
    return [SampledToken(id, logprob=-0.5, top=((id, -0.5), (ids[0], -1.0))) for id in ids]


def told(answer: Answer, ids: list[int], size: int) -> tuple[str, list[TokenLogprob]]:
    """The answer in deltas of `size` tokens."""
    tokens = sampled(ids)
    deltas: list[Delta] = []
    for start in range(0, len(tokens), size):
        if not answer.reason:
            deltas.append(answer.push(tuple(tokens[start : start + size])))
    deltas += [rest] if (rest := answer.flush()) else []
    return "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.logprobs]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_bytes_of_all_tokens_are_the_text_and_each_has_the_place_of_its_character(tokenizer: Tokenizer, size: int):
    text, tokens = told(answer(tokenizer), tokenizer.encode(TEXT), size)
    assert text == TEXT
    assert b"".join(token.data for token in tokens).decode() == TEXT
    assert [token.offset for token in tokens] == PLACES
    assert {token.top[0].data for token in tokens} == {token.data for token in tokens}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_tokens_of_a_stop_string_stand_behind_the_text(tokenizer: Tokenizer, size: int):
    text, tokens = told(answer(tokenizer, stop=("END", "ENDLESS")), tokenizer.encode(TEXT), size)
    assert text == TEXT[: TEXT.index("END")]
    assert b"".join(token.data for token in tokens if token.offset < len(text)).decode() == text
    assert [token.offset for token in tokens if token.offset >= len(text)] == [6, 7, 8]


def test_who_takes_over_knows_the_places(tokenizer: Tokenizer):
    ids = tokenizer.encode(TEXT)
    for num in range(len(ids)):
        resumed = answer(tokenizer, Resume(tuple(ids[:num]), 0))
        _, tokens = told(resumed, ids[num:], 2)
        assert [token.offset for token in tokens] == PLACES[num:]


def test_a_control_token_has_a_name_and_no_text(tokenizer: Tokenizer):
    (end,) = tokenizer.eos_ids
    text, (letter, control) = told(answer(tokenizer), [*tokenizer.encode("a"), end], 1)
    assert (text, letter.is_special, control.is_special) == ("a", False, True)
    assert (control.token, control.offset) == ("<|end|>", 1)
