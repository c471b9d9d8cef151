"""What the catalogue page shows: the published adapters that match a visitor's words and category, in an order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from loraland.catalogue.categories import Category, category_of, position
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.score import Score, score_of
from loraland.paper.published import BASE, Published, published

ORDERS: Final = {"gain": "Largest gain", "kind": "Kind of work", "name": "Name", "newest": "Newest", "size": "Smallest"}
ORDER: Final = "gain"
"""How the catalogue opens: what fine-tuning did most for comes first."""
MAX_WORDS: Final = 12


@dataclass(frozen=True)
class Card:
    """One adapter of the catalogue with what its card shows."""

    adapter: Adapter
    version: AdapterVersion
    category: Category
    score: Score | None
    is_served: bool

    @property
    def gains_nothing(self) -> bool:
        """Whether it was measured to do no better than what it must beat."""
        return self.is_served and self.score is not None and bool(self.score.remark or self.score.gain <= 0)

    @property
    def text(self) -> str:
        """What a search looks through, in lower case."""
        adapter = self.adapter
        words = (adapter.name, adapter.slug, adapter.summary, adapter.base, self.category.name)
        return " ".join((*words, str(adapter.dataset.get("name", "")))).replace("_", " ").casefold()


@dataclass(frozen=True)
class Query:
    """What the visitor asks for. Unknown categories and orders count as none."""

    words: str = ""
    category: str = ""
    order: str = ORDER

    @classmethod
    def of(cls, data: Mapping[str, Any], keys: Iterable[str]) -> Query:
        """Read the parameters `q`, `category` and `sort` of an address; `keys` are the categories there are."""
        words = " ".join(str(data.get("q", "")).split()[:MAX_WORDS])[:120]
        category, order = str(data.get("category", "")), str(data.get("sort", ""))
        return cls(words, category if category in set(keys) else "", order if order in ORDERS else ORDER)

    @property
    def is_filtered(self) -> bool:
        return bool(self.words or self.category)

    @property
    def address(self) -> str:
        """The query as the shortest query string, empty or with its question mark."""
        pairs = {"q": self.words, "category": self.category, "sort": self.order if self.order != ORDER else ""}
        given = {key: value for key, value in pairs.items() if value}
        return f"?{urlencode(given)}" if given else ""


def all_cards() -> list[Card]:
    """The cards of all published adapters, by kind of work."""
    cards = [_card(adapter) for adapter in Adapter.objects.published()]
    return sorted(cards, key=_SORTS["kind"])


def select(cards: Iterable[Card], query: Query) -> list[Card]:
    """Those `cards` that have every word of `query` and its category, in its order; unserved ones come last."""
    words = query.words.casefold().replace("_", " ").split()
    found = [card for card in cards if _matches(card, words, query.category)]
    return sorted(sorted(found, key=_SORTS[query.order]), key=lambda card: not card.is_served)


def count_by_category(cards: Iterable[Card]) -> list[tuple[Category, int]]:
    """The categories that `cards` have, in their order; all categories without a colour of their own are one."""
    kinds = [card.category for card in cards]
    counts = Counter(kind.key for kind in kinds)
    named = {kind.key: kind if kind.key != "other" else category_of("") for kind in kinds}
    return [(kind, counts[kind.key]) for kind in sorted(named.values(), key=position)]


def best(cards: Iterable[Card]) -> Card | None:
    """The served adapter with an example to try that gained the most: the first thing to show a newcomer."""
    ready = [card for card in cards if card.is_served and card.version.examples]
    return max(ready, key=_gain, default=None)


@dataclass(frozen=True)
class Offer:
    """An adapter that was published beside the paper and is not here yet, with the scores that the paper reports."""

    entry: Published
    category: Category
    score: Score | None

    @property
    def text(self) -> str:
        """What a search looks through, in lower case."""
        words = (self.entry.name, self.entry.repository, self.category.name, BASE)
        return " ".join(words).replace("_", " ").casefold()


def offers(cards: Iterable[Card], query: Query) -> list[Offer]:
    """The published adapters that are not among `cards` and have every word of `query` and its category."""
    here = {card.adapter.slug for card in cards}
    every = [_offer(entry) for entry in published() if entry.slug not in here]
    words = query.words.casefold().replace("_", " ").split()
    return [
        offer
        for offer in every
        if query.category in ("", offer.category.key) and all(word in offer.text for word in words)
    ]


def _offer(entry: Published) -> Offer:
    row, cell = entry.row, entry.cell
    score = Score(row.metric, 100 * cell.base, 100 * cell.tuned) if row and cell else None
    return Offer(entry, category_of(entry.category), score)


def _card(adapter: Adapter) -> Card:
    version = adapter.published
    assert version is not None  # AdapterQuerySet.published lets no other through
    version.adapter = adapter  # known already: its emblem needs no second look
    return Card(adapter, version, category_of(adapter.category), score_of(version.score), adapter.is_served)


def _matches(card: Card, words: list[str], category: str) -> bool:
    return (not category or card.category.key == category) and all(word in card.text for word in words)


def _gain(card: Card) -> float:
    return card.score.gain if card.score else -101.0


def _name(card: Card) -> str:
    return card.adapter.name.casefold()


_SORTS: Final[dict[str, Callable[[Card], Any]]] = {
    "kind": lambda card: (position(card.category), _name(card)),
    "gain": lambda card: (-_gain(card), _name(card)),
    "name": _name,
    "newest": lambda card: (-(card.version.published_at or card.version.created).timestamp(), _name(card)),
    "size": lambda card: (card.version.size_bytes, _name(card)),
}
