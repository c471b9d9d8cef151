"""No expression of ours backtracks over what a visitor, an owner or a model writes: each is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inference.tasks.words import said_alone
from tests.patterns import MOST_GROWTH, Found, expressions, worst_growth

REPO = Path(__file__).parents[1]
FOUND = list(expressions(REPO, ("inference", "loraland")))

RUN_AWAY = {
    "exponential": ("(a|a)*b", 0),
    "optional spaces": (r"[\w .]{1,40}\s?[=:]\s?[^;|\n]+(?:[;|]\s?[\w .]{1,40}\s?[=:]\s?[^;|\n]*)+;?", 0),
    "spaces on both sides": (r"(?:\s*\w+\s*)*;", 0),
    "spaces at the end": (r"\s+$", 0),
    "a mark after any blank lines": (r"^\W*Sample", re.MULTILINE),
    "an open bracket": (r"\[[^\]\n]+\]\(", 0),
    "what is never closed": ("<<.*?>>", 0),
    "two that overlap": (r"\d+\.?\d+x", 0),
}
SOUND = {
    "one class": (r"[a-z0-9]+", 0),
    "bounded": (r"[\w.-]{1,64}", 0),
    "possessive, from the beginning of a word": (r"(?<!\w)\w++;", 0),
    "not from within": (r"(?<!\s)\s+$", 0),
    "numbers": (r"-?\d+(?:\.\d+)?", 0),
}

AT_RUN_TIME: dict[str, int] = {"inference/tasks/baseline.py": 2}
"""How many expressions of a module are made at run time, where no test can see them."""


@pytest.mark.slow
@pytest.mark.parametrize("which", RUN_AWAY)
def test_the_measure_finds_what_runs_away(which: str) -> None:
    assert worst_growth(*RUN_AWAY[which])[0] > MOST_GROWTH


@pytest.mark.parametrize("which", SOUND)
def test_the_measure_lets_pass_what_is_sound(which: str) -> None:
    assert worst_growth(*SOUND[which])[0] <= MOST_GROWTH


@pytest.mark.slow
@pytest.mark.parametrize(
    "found", [shape for shape in FOUND if shape.pattern is not None], ids=lambda shape: shape.place
)
def test_the_work_of_an_expression_grows_no_faster_than_its_text(found: Found) -> None:
    growth, text = worst_growth(found.pattern, found.flags, found.is_anchored)
    assert growth <= MOST_GROWTH, f"{found.place}: {found.pattern!r} backtracks on {text}"


@pytest.mark.slow
@pytest.mark.parametrize("label", ["a", "neutral or mixed", "--", "中性", "aa aa"])
def test_the_work_of_finding_a_label_grows_no_faster_than_the_text(label: str) -> None:
    assert worst_growth(said_alone(label))[0] <= MOST_GROWTH


@pytest.mark.slow
def test_an_expression_made_at_run_time_is_known_by_name() -> None:
    made = [found.place.rpartition(":")[0] for found in FOUND if found.pattern is None]
    assert {place: made.count(place) for place in made} == AT_RUN_TIME
