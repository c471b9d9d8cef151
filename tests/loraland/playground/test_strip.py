"""The strip under a blend's answer: what was measured, in bars and as a table, and nothing where nothing was."""

from __future__ import annotations

from typing import Any

import pytest

from loraland.generations.models import Generation
from loraland.playground.answers import view_of
from loraland.playground.models import Answer, Conversation, Turn
from loraland.playground.pages import DRAWN, turns_of
from loraland.playground.strip import MOST_SHARES, strip_of

PARTS = [{"model": "moods@aaaaaaaaaaaa", "digest": "a" * 64, "weight": 1.0, "gate": "arrow"}]
PARTS += [{"model": "games@bbbbbbbbbbbb", "digest": "b" * 64, "weight": 1.0, "gate": "arrow"}]


def answer(weights: list[Any], **values: Any) -> Generation:
    about = {"status": "done", "text": "joy", "stats": {"completion_tokens": 1}, "components": PARTS, "request": {}}
    return Generation(base="b", weights=weights, **about | values)


def test_each_token_has_its_shares_and_each_part_its_mean() -> None:
    strip = strip_of(answer([["joy", [0.75, 0.25]], ["\n", [0.25, 0.75]]]))
    assert strip is not None
    assert strip.legend == [("moods", 0.5), ("games", 0.5)]
    assert [(share.top, share.height) for share in strip.tokens[0].shares] == [(0, 75), (75, 25)]
    assert [token.text for token in strip.tokens] == ["joy", "↵"]
    assert (strip.is_whole, strip.more) == (True, 0)


def test_weights_beyond_one_and_below_nothing_share_the_bar_by_their_size() -> None:
    strip = strip_of(answer([["joy", [1.5, -0.5]], ["!", [0.0, 0.0]]]))
    assert strip is not None
    assert [share.height for share in strip.tokens[0].shares] == [75, 25]
    assert [share.height for share in strip.tokens[1].shares] == [0, 0]
    assert not strip.is_whole


@pytest.mark.parametrize(
    "generation",
    [
        None,
        answer([]),
        answer([["joy", [1.0]]]),
        answer([["joy", [0.5, 0.5]]], components=[]),
        answer([["joy", []]], components=[]),
    ],
    ids=["refused", "plain", "another number of parts", "no parts", "no weights"],
)
def test_where_nothing_was_told_there_is_no_strip(generation: Generation | None) -> None:
    assert strip_of(generation) is None


def test_of_a_long_answer_the_first_tokens_are_shown_and_the_others_counted() -> None:
    strip = strip_of(answer([["x", [0.5, 0.5]]] * (MOST_SHARES // 2 + 3)))
    assert strip is not None
    assert (len(strip.tokens), strip.more) == (MOST_SHARES // 2, 3)


def test_of_many_parts_fewer_tokens_are_shown_so_that_a_page_stays_of_a_size() -> None:
    many = [{"model": f"part-{place}@{'a' * 12}"} for place in range(8)]
    strip = strip_of(answer([["x", [0.125] * 8]] * 4000, components=many))
    assert strip is not None
    assert (len(strip.tokens), strip.more) == (MOST_SHARES // 8, 4000 - MOST_SHARES // 8)
    assert strip.means == (0.125,) * 8


def test_two_versions_of_one_adapter_are_told_apart() -> None:
    twice = [{"model": "moods@aaaaaaaaaaaa"}, {"model": "moods@bbbbbbbbbbbb"}]
    strip = strip_of(answer([["joy", [0.75, 0.25]]], components=twice))
    assert strip is not None
    assert strip.parts == ("moods@aaaaaaaaaaaa", "moods@bbbbbbbbbbbb")


def test_the_page_has_it_as_bars_and_as_a_table_and_no_token_becomes_markup() -> None:
    foot = view_of(answer([["<b>", [0.75, 0.25]]])).foot()
    assert '<rect class="part-1" width="1" y="75.0" height="25.0"/>' in foot
    assert '<th scope="row"><code>&lt;b&gt;</code></th><td>0.75</td><td>0.25</td>' in foot
    assert "moods <b>0.75</b>" in foot
    assert "strip" not in view_of(answer([])).foot()


def test_a_long_chat_draws_the_strips_of_its_newest_answers_and_says_so_under_the_others(db: None) -> None:
    chat = Conversation.objects.create(session_key="anna")
    for at in range(DRAWN + 2):
        told = answer([["joy", [0.75, 0.25]]] if at != 1 else [])
        told.save()
        Answer.objects.create(turn=Turn.objects.create(conversation=chat, text=str(at)), generation=told)
    feet = [turn.answers[0].foot() for turn in turns_of(chat)]
    assert ["strip" in foot for foot in feet] == [False, False, *[True] * DRAWN]
    assert ["newer answers alone" in foot for foot in feet] == [True, *[False] * (DRAWN + 1)]
