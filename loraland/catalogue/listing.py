"""What the catalogue page shows: the published adapters that match a visitor's words and category, in an order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from loraland.catalogue.categories import Category, category_of, position
from loraland.catalogue.finder import Findable, Finder, searchable
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.score import Score, score_of
from loraland.paper.published import BASE, Published, published

ADAPTERS: Final = "adapters"
BLENDS: Final = "blends"
KINDS: Final = {ADAPTERS: "Adapters", BLENDS: "Blends"}
"""What a card is of, as addresses have it, and as it is told."""
ORDERS: Final = {"gain": "Largest gain", "kind": "Kind of work", "name": "Name", "newest": "Newest", "size": "Smallest"}


@dataclass(frozen=True)
class Card:
    """One adapter of the catalogue with what its card shows."""

    adapter: Adapter
    version: AdapterVersion
    category: Category
    score: Score | None
    is_served: bool

    @property
    def base(self) -> str:
        """The base that it is for, one that is served as the site spells it."""
        return self.adapter.served_base.name if self.is_served else self.adapter.base

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return BLENDS if self.version.gate else ADAPTERS

    @property
    def gains_nothing(self) -> bool:
        """Whether it was measured to do no better than what it must beat."""
        return self.is_served and self.score is not None and bool(self.score.remark or self.score.gain <= 0)

    @property
    def text(self) -> str:
        adapter = self.adapter
        words = [adapter.name, adapter.slug, adapter.summary, adapter.base, self.category.name]
        words += ["blend", self.version.method] if self.version.gate else []
        return searchable(*words, str(adapter.dataset.get("name", "")))


@dataclass(frozen=True)
class Query(Finder):
    """What the visitor asks of the catalogue; `kind` is empty or one of `KINDS`."""

    kind: str = ""

    orders = ORDERS

    @classmethod
    def of(cls, data: Mapping[str, Any], listed: Collection[Findable]) -> Self:
        kind = str(data.get("kind", ""))
        return replace(super().of(data, listed), kind=kind if kind in KINDS else "")

    @property
    def filters(self) -> dict[str, str]:
        return {**super().filters, "kind": self.kind}

    def matches(self, item: Findable) -> bool:
        """As any finder, and whether `item` is of the kind; what is not here yet is an adapter."""
        return self.kind in ("", getattr(item, "kind", ADAPTERS)) and super().matches(item)


def all_cards() -> list[Card]:
    """The cards of all published adapters, by kind of work."""
    cards = [_card(adapter) for adapter in Adapter.objects.published()]
    return sorted(cards, key=_SORTS["kind"])


def select(cards: Iterable[Card], query: Query) -> list[Card]:
    """Those `cards` that have every word of `query` and its category, in its order; unserved ones come last."""
    found = sorted(filter(query.matches, cards), key=_SORTS[query.order])
    return sorted(found, key=lambda card: not card.is_served)


def best(cards: Iterable[Card]) -> Card | None:
    """The served adapter with an example to try that gained the most: the first thing to show a newcomer."""
    ready = [card for card in cards if card.is_served and card.version.examples]
    return max(ready, key=_gain, default=None)


def count_by_kind(cards: Iterable[Card]) -> list[tuple[str, str, int]]:
    """The kinds that `cards` have, as addresses have them and as they are told, each with how many there are; none
    while all are of one."""
    counts = Counter(card.kind for card in cards)
    return [(kind, told, counts[kind]) for kind, told in KINDS.items()] if counts[BLENDS] else []


@dataclass(frozen=True)
class Offer:
    """An adapter that was published beside the paper and is not here yet, with the scores that the paper reports."""

    entry: Published
    category: Category
    score: Score | None

    @property
    def base(self) -> str:
        return BASE

    @property
    def text(self) -> str:
        return searchable(self.entry.name, self.entry.repository, self.category.name, BASE)


def offers(cards: Iterable[Card], query: Query) -> list[Offer]:
    """The published adapters that are not among `cards` and have every word of `query` and its category."""
    here = {card.adapter.slug for card in cards}
    return [offer for entry in published() if entry.slug not in here and query.matches(offer := _offer(entry))]


def _offer(entry: Published) -> Offer:
    row, cell = entry.row, entry.cell
    score = Score(row.metric, 100 * cell.base, 100 * cell.tuned) if row and cell else None
    return Offer(entry, category_of(entry.category), score)


def _card(adapter: Adapter) -> Card:
    version = adapter.published
    assert version is not None  # AdapterQuerySet.published lets no other through
    version.adapter = adapter  # known already: its emblem needs no second look
    return Card(adapter, version, category_of(adapter.category), score_of(version.score), adapter.is_served)


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
