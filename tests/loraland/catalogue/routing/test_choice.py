"""Which adapter is for a text, by what it says and how it is written."""

from __future__ import annotations

import pytest

from inference.tasks.vectors import embedding_of
from loraland.catalogue.routing.choice import Choice, choose
from loraland.catalogue.routing.index import Candidate, Index

BANK = ["Where is my card?", "Why was my transfer declined?", "How do I top up my account by card?"]
GAMES = ["inform(name[Portal 2], genres[puzzle])", "request(specifier[favorite])", "confirm(name[Tetris])"]
FOLLOWS = ["A man walks his dog.\nA man is outside.", "Two children sleep.\nThe children run."]
ALIKE = ["What is a dog?\nWhat are dogs?", "How do I sleep?\nHow can one sleep?"]


@pytest.fixture
def index() -> Index:
    return Index(
        [
            Candidate("bank", "Bank", "b" * 64, "one", "Message: {text}\nIntent:", ("text",)),
            Candidate("games", "Games", "g" * 64, "two", "Meaning: {act}\nLine:", ("act",)),
            Candidate("follows", "Follows", "f" * 64, "one", "{first}\n{second}\nFollows?", ("first", "second")),
            Candidate("alike", "Alike", "a" * 64, "one", "{first} ~ {second}", ("first", "second")),
        ],
        [embedding_of(texts) for texts in (BANK, GAMES, FOLLOWS, ALIKE)],
    )


def ask(index: Index, text: str = "", inputs: dict[str, str] | None = None, keys: tuple[str, ...] = ("one", "two")):
    return choose(index, keys, text, inputs)


def slug(choice: Choice) -> str | None:
    return choice.chosen.candidate.slug if choice.chosen else None


def test_a_text_is_for_the_nearest_adapter_of_one_field(index):
    choice = ask(index, "suggest(name[Tetris], genres[puzzle])")
    assert (slug(choice), choice.inputs) == ("games", {"act": "suggest(name[Tetris], genres[puzzle])"})
    assert [each.candidate.slug for each in choice.runners_up] == ["bank"]
    assert choice.chosen.score > choice.runners_up[0].score


def test_an_adapter_of_another_base_is_none(index):
    choice = ask(index, "suggest(name[Tetris], genres[puzzle])", keys=("one",))
    assert (slug(choice), choice.reason) == (None, "far")
    assert "games" not in str(choice.told)


def test_a_text_that_is_like_none_is_for_the_base(index, settings):
    settings.AUTO_THRESHOLD = 60
    choice = ask(index, "Where is my money?")
    assert (slug(choice), choice.reason) == (None, "far")
    assert choice.told["runners_up"][0]["adapter"] == "bank"
    settings.AUTO_THRESHOLD = 0
    assert slug(ask(index, "Where is my card now?")) == "bank"


def test_what_people_ask_of_a_base_is_for_the_base(index):
    assert ask(index, "Tell me a joke about dogs.").reason in ("general", "far")
    assert ask(index, "How do I bake bread?").reason == "general"


@pytest.mark.parametrize(
    "text",
    [
        "first: A man walks.\nsecond: A man is out.",
        '{"first": "A man walks.", "second": "A man is out."}',
        "A man walks.\nA man is out.\nFollows?",
    ],
    ids=["lines", "object", "whole prompt"],
)
def test_a_text_that_names_the_fields_or_fills_the_template_is_for_one_that_has_them(index, text):
    choice = ask(index, text)
    assert (slug(choice), choice.inputs) == ("follows", {"first": "A man walks.", "second": "A man is out."})


def test_a_whole_prompt_of_one_field_is_for_its_adapter_and_unfilled(index):
    choice = ask(index, "Message: Where is my card?\nIntent:")
    assert (slug(choice), choice.inputs) == ("bank", {"text": "Where is my card?"})


def test_inputs_are_for_an_adapter_with_just_these_fields_however_far(index):
    choice = ask(index, inputs={"second": "xyzzy", "first": "plugh"})
    assert slug(choice) in ("follows", "alike")
    assert ask(index, inputs={"first": "a"}).reason == "nothing_fits"


def test_nothing_fits_where_there_are_no_adapters():
    assert ask(Index([], []), "Where is my card?").reason == "nothing_fits"
