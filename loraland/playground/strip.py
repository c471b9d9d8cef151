"""What a blend's gate did in an answer, token by token: a strip of its parts' weights, and the same as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loraland.generations.models import Generation

MOST_SHARES: Final = 1024
"""Of an answer with more numbers the first tokens are shown: each number is drawn, told and written into the table."""
HEIGHT: Final = 100
"""Of a bar, in its own units."""


@dataclass(frozen=True)
class Share:
    """A part's place in a token's bar, from the top, and its weight as it was told."""

    place: int
    top: float
    height: float
    weight: float


@dataclass(frozen=True)
class Token:
    """One token. All bars are of one height: a part has its share of all weights, of negative ones by their size."""

    text: str
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Strip:
    """`parts` are the names, `means` what each weighed over the tokens; `more` tokens are not shown."""

    parts: tuple[str, ...]
    means: tuple[float, ...]
    tokens: tuple[Token, ...]
    more: int = 0

    @property
    def legend(self) -> list[tuple[str, float]]:
        return list(zip(self.parts, self.means, strict=True))

    @property
    def is_whole(self) -> bool:
        """Whether the weights of every token add up to 1, as a softmax without a bias has it."""
        return all(abs(sum(share.weight for share in token.shares) - 1) < 0.01 for token in self.tokens)


def strip_of(generation: Generation | None) -> Strip | None:
    """What was measured of an answer; None of one that no blend gave, or of which nothing was told."""
    if generation is None or not generation.weights:
        return None
    names = _names([part["model"] for part in generation.components])
    rows: list[list[float]] = [weights for _, weights in generation.weights]
    if not names or any(len(weights) != len(names) for weights in rows):
        return None
    means = tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
    shown = generation.weights[: MOST_SHARES // len(names)]
    tokens = tuple(_token(text, weights) for text, weights in shown)
    return Strip(names, means, tokens, len(rows) - len(shown))


def _names(models: Sequence[str]) -> tuple[str, ...]:
    """The slugs of versions called ``slug@digest``; all with their digests where two have one slug."""
    slugs = tuple(model.partition("@")[0] for model in models)
    return slugs if len(set(slugs)) == len(slugs) else tuple(models)


def _token(text: str, weights: Sequence[float]) -> Token:
    total = sum(map(abs, weights)) or 1.0
    shares, top = list[Share](), 0.0
    for place, weight in enumerate(weights):
        height = HEIGHT * abs(weight) / total
        shares.append(Share(place, round(top, 2), round(height, 2), weight))
        top += height
    return Token(_visible(text), tuple(shares))


def _visible(text: str) -> str:
    """A token of spaces or line ends alone is drawn as what it does."""
    return text if text.strip() else text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")
