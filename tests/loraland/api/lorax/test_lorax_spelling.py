"""An answer token by token: texts that, joined, are the answer, and why it ended."""

from __future__ import annotations

import pytest

from inference.wire.protocol import Delta, Finished, TokenLogprob
from loraland.api.lorax.spelling import Ending, Spelled, Spelling


def token(data: bytes, special: bool = False) -> TokenLogprob:
    text = data.decode("utf-8", "replace")
    return TokenLogprob(text, 7, -0.5, hex="" if text.encode() == data else data.hex(), is_special=special)


def spell(pieces: list[tuple[str, bytes]], reason: str, *stops: str, end: bool = False) -> tuple[list[Spelled], Ending]:
    """All tokens and the end of an answer, of which each piece is told text and one token."""
    spelling, spelled = Spelling(stops), []
    for text, data in pieces:
        spelled += spelling.push(Delta("a", text, (7,), (token(data),)))
    if end:
        spelled += spelling.push(Delta("a", "", (0,), (token(b"<|end|>", special=True),)))
    ending = spelling.end(Finished("a", reason))
    return [*spelled, *ending.last], ending


def test_the_latest_token_is_kept_until_the_next_one_or_the_end():
    spelling = Spelling(())
    assert spelling.push(Delta("a", "one", (1,), (token(b"one"),))) == []
    assert [each.text for each in spelling.push(Delta("a", " two", (2,), (token(b" two"),)))] == ["one"]
    assert [each.text for each in spelling.end(Finished("a", "length")).last] == [" two"]


def test_a_token_within_a_character_has_no_text_and_the_one_that_ends_it_has_the_character():
    spelled, ending = spell([("a", b"a"), ("", b"\xe6\xbc"), ("漢!", b"\xa2!")], "length")
    assert [each.text for each in spelled] == ["a", "", "漢!"]
    assert (ending.text, ending.reason) == ("a漢!", "length")


def test_a_character_that_is_never_ended_is_no_text():
    spelled, ending = spell([("a", b"a"), ("", b"\xf0\x9f")], "length")
    assert ("".join(each.text for each in spelled), ending.text) == ("a", "a")


def test_the_end_of_the_model_is_a_special_token_without_text():
    spelled, ending = spell([("a", b"a")], "done", end=True)
    assert (ending.text, ending.reason) == ("a", "eos_token")
    assert [(each.text, each.token.is_special) for each in spelled] == [("a", False), ("", True)]


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        ([("a", b"a"), ("", b"\n\n")], ["\n\n"], "a\n\n"),
        ([("a", b"a"), ("", b"\n"), ("", b"\nb")], ["\n\n"], "a\n\n"),
        ([("a", b"a END more")], ["END", " END m"], "a END m"),
        ([("", b"END")], ["END"], "END"),
        ([("x", b"x"), ("", b"ab"), ("", b"cd")], ["abcde", "abc"], "xabc"),
    ],
    ids=["a token of its own", "over two tokens", "the longer begins first", "nothing before it", "the other goes on"],
)
def test_the_stop_string_is_the_end_of_the_text_and_of_the_tokens(pieces, stops, text):
    spelled, ending = spell(pieces, "done", *stops)
    assert (ending.text, ending.reason) == (text, "stop_sequence")
    assert "".join(each.text for each in spelled) == text


def test_an_end_of_the_model_is_no_stop_string_though_one_was_asked_for():
    _, ending = spell([("a", b"a")], "done", "END", end=True)
    assert (ending.text, ending.reason) == ("a", "eos_token")


def test_a_text_whose_tokens_are_gone_is_told_as_it_was():
    spelling = Spelling(("END",))
    assert spelling.push(Delta("a", "all of it")) == []
    assert spelling.end(Finished("a", "done")) == Ending("all of it", "eos_token", [], is_whole=False)
