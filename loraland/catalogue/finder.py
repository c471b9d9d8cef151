"""Finding in a list that a page shows: by words and by kind of work, in an order, as its address asks.

The database finds, counts and orders, in rows made for that: `text` is what is looked through (see `searchable`),
`category_key` and `base_key` are what is filtered by. What is not in a database is asked one by one (`matches`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar
from unicodedata import normalize
from urllib.parse import urlencode

from django.db import models
from django.db.models import Count, Min

from loraland import bases
from loraland.catalogue.categories import Category, of_key, position

MAX_WORDS: Final = 12
ORDER: Final = "gain"
"""How a list opens: what fine-tuning did most for comes first."""
ACCENTS: Final = dict.fromkeys(range(0x300, 0x370))
"""Unicode's combining marks of Latin, Greek and Cyrillic letters, without which a word is found too."""

Row = TypeVar("Row", bound=models.Model)


class Findable(Protocol):
    """What can be found though it is no row."""

    @property
    def category(self) -> Category: ...

    @property
    def base(self) -> str:
        """The name of the base that it is for."""
        ...

    @property
    def text(self) -> str:
        """What a search looks through; see `searchable`."""
        ...


@dataclass(frozen=True)
class Facets:
    """How much a list has of each category and of each base, by their keys, and of each value of a column of its own;
    `names` are what the bases are called."""

    categories: Mapping[str, int]
    bases: Mapping[str, int]
    names: Mapping[str, str]
    own: Mapping[str, int]

    @classmethod
    def of(cls, rows: models.QuerySet[Any], column: str) -> Self:
        """Those of `rows`, counted by the database at once."""
        groups = rows.order_by().values_list("category_key", "base_key", column).annotate(Count("pk"), Min("base"))
        categories, by_base, own, names = Counter[str](), Counter[str](), Counter[str](), dict[str, str]()
        for category, base, value, count, name in groups:
            categories[category] += count
            by_base[base] += count
            own[value] += count
            names[base] = min(name, names.get(base, name))
        names |= {base.key: base.name for base in bases.served()}
        return cls(categories, by_base, names, own)

    @property
    def total(self) -> int:
        return sum(self.categories.values())

    @property
    def counted_categories(self) -> list[tuple[Category, int]]:
        """The categories that there are, in their order, each with how much is of it."""
        found = [(of_key(key), count) for key, count in self.categories.items()]
        return sorted(found, key=lambda each: position(each[0]))

    @property
    def counted_bases(self) -> list[tuple[str, int]]:
        """The bases that are served, and others of which there is something, each with how much is its own."""
        served = [base.key for base in bases.served()]
        counts = [(key, self.bases.get(key, 0)) for key in dict.fromkeys([*served, *self.bases])]
        counts.sort(key=lambda each: (each[0] not in served, -each[1], self.names[each[0]]))
        return [(self.names[key], count) for key, count in counts]


@dataclass(frozen=True)
class Finder:
    """What a visitor asks of a list. Categories that it does not have, bases that it does not have and are not served
    and unknown orders count as none."""

    words: str = ""
    category: str = ""
    order: str = ORDER
    base: str = ""

    orders: ClassVar[Collection[str]]

    @classmethod
    def of(cls, data: Mapping[str, Any], facets: Facets) -> Self:
        """Read the parameters `q`, `category`, `base` and `sort` of an address that asks about a list of `facets`."""
        words = " ".join(str(data.get("q", "")).split()[:MAX_WORDS])[:120]
        category, order, base = (str(data.get(name, "")) for name in ("category", "sort", "base"))
        category = category if category in facets.categories else ""
        return cls(words, category, order if order in cls.orders else ORDER, facets.names.get(base.lower(), ""))

    @property
    def filters(self) -> dict[str, str]:
        """The parameters that choose what is shown; empty ones choose nothing."""
        return {"q": self.words, "category": self.category, "base": self.base}

    @property
    def is_filtered(self) -> bool:
        return any(self.filters.values())

    @property
    def address(self) -> str:
        """The query string that asks for this."""
        return self.sorted_by(self.order)

    def sorted_by(self, order: str) -> str:
        """The query string of the same filters in another order."""
        return query_string(**self.filters, sort="" if order == ORDER else order)

    def beyond(self, place: str) -> str:
        """The query string that asks for what stands behind `place`."""
        return query_string(**self.filters, sort="" if self.order == ORDER else self.order, after=place)

    def found(self, rows: models.QuerySet[Row]) -> models.QuerySet[Row]:
        """Those of `rows` that have every word, the category and the base."""
        for word in self._parts:
            rows = rows.filter(text__contains=word)
        rows = rows.filter(category_key=self.category) if self.category else rows
        return rows.filter(base_key=self.base.lower()) if self.base else rows

    def matches(self, item: Findable) -> bool:
        """The same of something that is no row."""
        is_of_kind = self.category in ("", item.category.key) and self.base in ("", item.base)
        return is_of_kind and all(word in item.text for word in self._parts)

    @property
    def _parts(self) -> list[str]:
        return searchable(self.words).split()


def searchable(*words: str) -> str:
    """`words` as they are looked through: in one text, without case, accents and underscores, however a keyboard or a
    file encodes them."""
    return normalize("NFKD", " ".join(words).replace("_", " ")).casefold().translate(ACCENTS)


def query_string(**parameters: str) -> str:
    """The shortest query string of `parameters`: empty, or with its question mark."""
    given = {name: value for name, value in parameters.items() if value}
    return f"?{urlencode(given)}" if given else ""
