"""Recipes to start from, and how long a training will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from inference.tasks.recipe import Lora, Schedule

ALL: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Preset:
    """A recipe with a name; `max_length` is set by the data."""

    key: str
    name: str
    meaning: str
    lora: Lora
    schedule: Schedule


PRESETS: Final = (
    Preset(
        "quick",
        "Quick",
        "To see whether it learns at all.",
        Lora(rank=1, lora_alpha=2, target_modules=ALL),
        Schedule(steps=60, batch=8, learning_rate=2e-3),
    ),
    Preset(
        "standard",
        "Standard",
        "Enough for most tasks with short answers.",
        Lora(rank=1, lora_alpha=2, target_modules=ALL),
        Schedule(steps=250, batch=16, learning_rate=2e-3),
    ),
    Preset(
        "thorough",
        "Thorough",
        "A larger adapter, for longer: for many labels, long answers and thousands of rows.",
        Lora(rank=4, lora_alpha=8, target_modules=ALL),
        Schedule(steps=600, batch=16, learning_rate=2e-3),
    ),
)
DEFAULT: Final = "standard"

MS_A_TOKEN: Final = 1.5
"""Until trainings have ended here: what the default base took on one core of a CPU beside other work."""
BEGINNING_SECONDS: Final = 20.0
"""Loading torch and the base."""


def preset_of(key: str) -> Preset:
    """The preset called `key`, else the default one."""
    named = {preset.key: preset for preset in PRESETS}
    return named.get(key, named[DEFAULT])


def seconds(schedule: Schedule, lengths: Sequence[int], ms_a_token: float = MS_A_TOKEN) -> float:
    """How long a training takes on rows of so many tokens, when `ms_a_token` is what a token takes."""
    return BEGINNING_SECONDS + tokens(schedule, lengths) * ms_a_token / 1000


def tokens(schedule: Schedule, lengths: Sequence[int]) -> float:
    """About how many tokens a training reads: rows that are too long are left out."""
    read = [length for length in lengths if length <= schedule.max_length]
    return schedule.steps * schedule.batch * sum(read) / max(1, len(read))


def duration(seconds: float) -> str:
    """A time in words: less than a minute, about 4 minutes, about 1 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 50:
        return "less than a minute"
    if minutes < 60:
        return f"about {max(1, minutes)} minute{'s' if minutes > 1 else ''}"
    hours, rest = divmod(5 * round(minutes / 5), 60)
    return f"about {hours} h {rest} min" if rest else f"about {hours} h"
