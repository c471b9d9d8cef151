"""What the catalogue page shows: the published adapters that match a visitor's words and category, in an order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from loraland.catalogue.categories import Category, category_of
from loraland.catalogue.finder import Facets, Findable, Finder, searchable
from loraland.catalogue.listed import ADAPTERS, BLENDS, UNHELPED, ListedAdapter, ListedAdapterQuerySet
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.score import Score, score_of
from loraland.catalogue.windows import Window, window_of, written
from loraland.paper.published import BASE, Published, published

KINDS: Final = {ADAPTERS: "Adapters", BLENDS: "Blends"}
"""What a card is of, as addresses have it, and as it is told."""
ORDERS: Final = {"gain": "Largest gain", "kind": "Kind of work", "name": "Name", "newest": "Newest", "size": "Smallest"}
SORTS: Final = {
    "kind": ("kind_order",),
    "gain": ("-gain",),
    "name": (),
    "newest": ("-published_at",),
    "size": ("size_bytes",),
}
"""By which columns each is, before the name."""
SHOWN: Final = (
    *("slug", "name", "category", "summary", "base"),
    *(f"published__{name}" for name in ("digest", "gate", "components", "rank", "size_bytes", "score")),
)
"""The columns that cards need; a version's others are long."""


@dataclass(frozen=True)
class Card:
    """One adapter of the catalogue with what its card shows."""

    adapter: Adapter
    version: AdapterVersion
    category: Category
    score: Score | None
    is_served: bool
    is_unhelped: bool
    """Whether it answers here and was measured to do no better than what it must beat."""

    @property
    def base(self) -> str:
        """The base that it is for, one that is served as the site spells it."""
        return self.adapter.served_base.name if self.is_served else self.adapter.base


@dataclass(frozen=True)
class Query(Finder):
    """What the visitor asks of the catalogue; `kind` is empty or one of `KINDS`."""

    kind: str = ""

    orders = ORDERS

    @classmethod
    def of(cls, data: Mapping[str, Any], facets: Facets) -> Self:
        kind = str(data.get("kind", ""))
        return replace(super().of(data, facets), kind=kind if kind in KINDS else "")

    @property
    def filters(self) -> dict[str, str]:
        return {**super().filters, "kind": self.kind}

    @property
    def rows(self) -> ListedAdapterQuerySet:
        """The rows that are asked for."""
        rows = ListedAdapter.objects.ranked().defer("text")
        found: ListedAdapterQuerySet = self.found(rows.filter(kind=self.kind) if self.kind else rows)  # type: ignore[assignment]
        return found

    def matches(self, item: Findable) -> bool:
        """As any finder, and whether `item` is of the kind; what is not here yet is an adapter."""
        return self.kind in ("", ADAPTERS) and super().matches(item)


@dataclass(frozen=True)
class Cards:
    """A window of cards: `helped` and, behind all of those, `unhelped`, which begin here where `begins_unhelped`."""

    helped: tuple[Card, ...]
    unhelped: tuple[Card, ...]
    begins_unhelped: bool
    next: str

    @property
    def all(self) -> tuple[Card, ...]:
        return self.helped + self.unhelped

    @property
    def versions(self) -> list[AdapterVersion]:
        """Whose emblems are drawn."""
        return [card.version for card in self.all]


def facets() -> Facets:
    """What there is of each kind, base and category."""
    return Facets.of(ListedAdapter.objects.all(), "kind")


def cards(query: Query, after: str = "") -> Cards:
    """The window of what `query` asks for from the place `after`. Raises `Http404` for what is no place."""
    order = ("rank", *SORTS[query.order], "name", "adapter_id")
    window = window_of(query.rows, order, after)
    shown = cards_of(window)
    helped = tuple(card for card in shown if not card.is_unhelped)
    unhelped = tuple(card for card in shown if card.is_unhelped)
    is_first = not window.after or window.after[0] != UNHELPED
    if not (helped and unhelped and window.next):
        return Cards(helped, unhelped, is_first, window.next)
    # What did not help begins with a window of its own, whose lines are full.
    last = next(row for row in reversed(window.rows) if row.adapter_id == helped[-1].adapter.pk)
    return Cards(helped, (), is_first, written(last, order))


def cards_of(window: Window[ListedAdapter]) -> list[Card]:
    """The cards of its rows, in their order."""
    pks = [row.adapter_id for row in window.rows]
    found = Adapter.objects.published().only(*SHOWN).in_bulk(pks)
    return [_card(found[pk]) for pk in pks if pk in found]


def best() -> Adapter | None:
    """The served adapter with an example to try that gained the most: the first thing to show a newcomer."""
    served = ListedAdapter.objects.served().filter(has_examples=True).select_related("adapter")
    first = served.order_by("-gain", "name", "adapter_id").first()
    return first.adapter if first else None


def specialists(most: int) -> list[Adapter]:
    """Whom to offer a newcomer: the adapters that gained most, the unmeasured last, none that gained nothing."""
    rows = ListedAdapter.objects.served().filter(is_unhelped=False, adapter__published__isnull=False)
    found = [row.adapter for row in rows.select_related("adapter__published").order_by("-gain", "name", "pk")[:most]]
    for adapter in found:
        if adapter.published:
            adapter.published.adapter = adapter
    return found


def first(beside: Collection[str] = ()) -> str:
    """The slug of the first adapter by name that answers here, besides those whose slugs are given; empty for none."""
    rows = ListedAdapter.objects.served().filter(adapter__published__isnull=False).exclude(adapter__slug__in=beside)
    return rows.order_by("name", "adapter_id").values_list("adapter__slug", flat=True).first() or ""


def count_by_kind(facets: Facets) -> list[tuple[str, str, int]]:
    """The kinds that there are, as addresses have them and as they are told, each with how many; none while all are of
    one."""
    counts = facets.own
    return [(kind, told, counts.get(kind, 0)) for kind, told in KINDS.items()] if counts.get(BLENDS) else []


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


def offers(query: Query) -> list[Offer]:
    """The published adapters that are not here and have every word of `query` and its category."""
    slugs = [entry.slug for entry in published()]
    here = set(ListedAdapter.objects.filter(adapter__slug__in=slugs).values_list("adapter__slug", flat=True))
    return [offer for entry in published() if entry.slug not in here and query.matches(offer := _offer(entry))]


def _offer(entry: Published) -> Offer:
    row, cell = entry.row, entry.cell
    score = Score(row.metric, 100 * cell.base, 100 * cell.tuned) if row and cell else None
    return Offer(entry, category_of(entry.category), score)


def _card(adapter: Adapter) -> Card:
    version = adapter.published
    assert version is not None  # AdapterQuerySet.published lets no other through
    version.adapter = adapter  # known already: its emblem needs no second look
    score, is_served = score_of(version.score), adapter.is_served
    gains_nothing = score is not None and bool(score.remark or score.gain <= 0)
    return Card(adapter, version, category_of(adapter.category), score, is_served, is_served and gains_nothing)
