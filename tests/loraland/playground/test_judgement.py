"""An answer is worth what the metric of its task says, on every card that is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.tasks.metrics import METRICS
from inference.tasks.recipe import load_recipe
from loraland.catalogue.card import read_card
from loraland.playground.judgement import MOST_CHARS, Expectation, Piece, judge, metric_of

CARDS = sorted(Path("adapters").glob("*/card.toml"))
PORTAL = "Do you like first person puzzle shooters, such as Portal 2?"


def answers_near(expected: str) -> list[str]:
    """What an adapter may have written: the same, with other spacing and case, less of it, more of it, nothing."""
    words = expected.split()
    return [expected, f" {expected}\n", expected.upper(), " ".join(words[:-1]), f"{expected} or so", "3.4", ""]


def test_every_example_is_judged_by_the_metric_of_its_task() -> None:
    judged = 0
    for path in CARDS:
        card, metric = read_card(path), load_recipe(path.parent.name).metric
        assert card.score["metric"] == metric
        for example in card.examples:
            judged += 1
            for answer in answers_near(example["expected"]):
                judgement = judge(answer, Expectation(example["expected"], metric))
                tally = METRICS[metric](answer, example["expected"])
                share = 100 * tally.earned / tally.possible
                assert judgement is not None
                assert (judgement.points == 100) == (share == 100)
                assert abs(judgement.points - share) <= 1
    assert judged == 101


def test_a_near_answer_is_worth_most_of_it_and_its_differing_words_are_named() -> None:
    judgement = judge("Do you like first person puzzle shooters like Portal 2?", Expectation(PORTAL, "rouge_l"))
    assert judgement is not None
    assert judgement.words == "86 of 100 by ROUGE-L"
    assert judgement.state == "partly"
    assert judgement.pieces == (
        Piece("same", "Do you like first person puzzle"),
        Piece("extra", "shooters like"),
        Piece("missing", "shooters, such as"),
        Piece("same", "Portal 2?"),
    )


@pytest.mark.parametrize(
    ("answer", "words"), [("joy", "As expected"), (" joy\n", "As expected"), ("Joy", "Not as expected")]
)
def test_a_label_is_right_or_wrong(answer: str, words: str) -> None:
    judgement = judge(answer, Expectation("joy", "accuracy"))
    assert judgement is not None
    assert judgement.words == words


def test_nothing_is_said_where_nothing_can_be() -> None:
    assert judge("joy", None) is None
    assert judge("joy", Expectation("", "accuracy")) is None
    assert judge("a " * MOST_CHARS, Expectation("a", "rouge_l")) is None
    assert judge("4", Expectation("four", "mae")) is None
    assert metric_of(None) == "exact_match"


def test_a_long_answer_is_judged_without_marks() -> None:
    judgement = judge("a " * 400, Expectation("a", "rouge_l"))
    assert judgement is not None
    assert judgement.points == 1
    assert judgement.pieces == ()
