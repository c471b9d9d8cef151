"""Whether a gain is clear: the one rule, and its words. A verdict is empty until both rivals were measured."""

from __future__ import annotations

from typing import Final, Literal

from inference.tasks.bootstrap import Interval

Verdict = Literal["gain", "no clear gain"]
CLEAR: Final = "gain"
UNCLEAR: Final = "no clear gain"
VERDICTS: Final[dict[Verdict, str]] = {CLEAR: "clear gain", UNCLEAR: "no clear gain"}
"""Every verdict as cards and runs write it, and in words."""
LONGEST_ANSWER: Final = 40
"""A constant answer of more characters is not quoted in a line."""


def verdict_of(over_base: Interval, over_constant: Interval) -> Verdict:
    """A gain is clear when its paired intervals over the base and over the best constant answer lie above 0."""
    return CLEAR if min(over_base[0], over_constant[0]) > 0 else UNCLEAR


def remark_of(verdict: str, gain: float, surely: float, constant: str | None) -> str:
    """What to say of a `gain` over the base, at least `surely`, by its `verdict`; empty for a clear one.

    `constant` is the best constant answer: None where none was measured, empty where its words are not known.
    """
    if verdict == CLEAR:
        return ""
    if gain < 0:
        return "lower than the base"
    if surely <= 0 or constant is None:
        return VERDICTS[UNCLEAR]
    always = f"always answering “{constant}”" if 0 < len(constant) <= LONGEST_ANSWER else "one answer to every row"
    return f"{always} gets as much"
