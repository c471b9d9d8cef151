"""Every pair of colours that carries words meets WCAG AA, by day and by night."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

TOKENS = (Path(__file__).parents[3] / "static/css/tokens.css").read_text()
COLOUR = r"oklch\(([\d.]+) ([\d.]+) ([\d.]+)\)"
KINDS = ("classic-nlp", "structured", "coding", "knowledge", "reasoning", "math", "other", "plain")
GROUNDS = ("paper", "plate", "well")
WORDS = [
    *((ink, ground) for ink in ("ink", "ink-soft", "accent-strong", "good", "bad") for ground in GROUNDS),
    *((kind, ground) for kind in KINDS for ground in ("paper", "plate", f"{kind}-tint")),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("ink", "accent-tint"),
    ("ink", "bad-tint"),
]
MARKS = [
    ("line-strong", "plate"),
    ("line-strong", "paper"),
    ("accent", "paper"),
    ("accent", "plate"),
]


def tokens() -> dict[str, tuple[float, float]]:
    """The luminance of each colour by day and by night."""
    pairs = re.findall(rf"--([\w-]+): light-dark\({COLOUR}, {COLOUR}\);", TOKENS)
    return {name: (luminance(*map(float, six[:3])), luminance(*map(float, six[3:]))) for name, *six in pairs}


def luminance(lightness: float, chroma: float, hue: float) -> float:
    """WCAG's relative luminance of an OKLCH colour, clipped to sRGB (matrices: Ottosson 2020)."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    clipped = [min(1.0, max(0.0, channel)) for channel in (red, green, blue)]
    return 0.2126 * clipped[0] + 0.7152 * clipped[1] + 0.0722 * clipped[2]


def contrast(first: float, second: float) -> float:
    low, high = sorted((first, second))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_gives_the_known_extremes() -> None:
    assert contrast(luminance(0, 0, 0), luminance(1, 0, 0)) == pytest.approx(21, abs=0.01)
    red = luminance(0.6279553639, 0.2576833077, 29.2338811)
    assert contrast(red, luminance(1, 0, 0)) == pytest.approx(4.0, abs=0.01)


def test_every_colour_of_the_tokens_has_a_day_and_a_night() -> None:
    named = set(re.findall(r"--([\w-]+): (?:light-dark|oklch|#|rgb)", TOKENS))
    assert named == set(tokens())


@pytest.mark.parametrize(("ink", "ground"), WORDS)
@pytest.mark.parametrize("shade", [0, 1], ids=["day", "night"])
def test_words_stand_out_from_their_ground(ink: str, ground: str, shade: int) -> None:
    assert contrast(tokens()[ink][shade], tokens()[ground][shade]) >= 4.5


@pytest.mark.parametrize(("mark", "ground"), MARKS)
@pytest.mark.parametrize("shade", [0, 1], ids=["day", "night"])
def test_marks_and_borders_of_controls_stand_out_from_their_ground(mark: str, ground: str, shade: int) -> None:
    assert contrast(tokens()[mark][shade], tokens()[ground][shade]) >= 3.0
