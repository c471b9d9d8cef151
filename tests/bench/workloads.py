"""What is asked of every server and library that is measured: the five workloads, and prompts that no run repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

PROMPT_TOKENS: Final = 64
NEW_TOKENS: Final = 64
NARROW: Final = tuple(f"narrow-{number:02}" for number in range(25))
"""Adapters of rank 8 on q and v."""
WIDE: Final = tuple(f"wide-{number:02}" for number in range(25))
"""Adapters of rank 16 on all seven projections."""
BASE: Final = ("base",)

_WORDS: Final = [
    "river",
    "lamp",
    "stone",
    "copper",
    "garden",
    "winter",
    "paper",
    "engine",
    "yellow",
    "quiet",
    "market",
    "signal",
    "orange",
    "window",
    "ladder",
    "cloud",
    "letter",
    "music",
    "harbor",
    "silver",
    "forest",
    "bridge",
    "doctor",
    "summer",
    "castle",
    "island",
    "pocket",
    "mirror",
    "basket",
    "thunder",
    "valley",
    "candle",
]


@dataclass(frozen=True)
class Workload:
    """`users` at once, each sending its next request when it has read the last; `requests` in all, `models` in turn."""

    name: str
    title: str
    users: int
    requests: int
    models: tuple[str, ...]


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("w1", "25 adapters, 1 user", 1, 6, NARROW),
        Workload("w2", "25 adapters, 8 users", 8, 24, NARROW),
        Workload("w3", "25 adapters, 32 users", 32, 64, NARROW),
        Workload("w4", "base only, 32 users", 32, 64, BASE),
        Workload("w5", "25 of rank 16 on 7 projections, 32 users", 32, 64, WIDE),
    )
}


@dataclass(frozen=True)
class Ask:
    """One request: which model, and what it reads."""

    model: str
    prompt: str = ""
    tokens: int = NEW_TOKENS
    ignore_eos: bool = True
    inputs: dict[str, str] | None = None
    """What fills the adapter's own template, in place of a prompt."""


class Prompts:
    """Prompts of exactly `PROMPT_TOKENS` tokens of the base model in `directory`; another seed, other prompts."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def draw(self, chance: random.Random, tokens: int = PROMPT_TOKENS) -> str:
        words = [chance.choice(_WORDS)]
        while (missing := tokens - self.count(" ".join(words))) > 0:
            words += chance.choices(_WORDS, k=max(1, missing // 2))
        while self.count(text := " ".join(words)) > tokens:
            words.pop()
        return text if self.count(text) == tokens else self.draw(chance, tokens)

    def asks(self, models: Sequence[str], requests: int, seed: str) -> list[Ask]:
        """`requests` of them with different prompts, `models` in turn."""
        chance, prompts = random.Random(seed), dict[str, None]()
        while len(prompts) < requests:
            prompts[self.draw(chance)] = None
        return [Ask(models[number % len(models)], prompt) for number, prompt in enumerate(prompts)]
