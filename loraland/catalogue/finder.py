"""Finding in a list that a page shows: by words and by kind of work, in an order, as its address asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, Self
from urllib.parse import urlencode

from loraland import bases
from loraland.catalogue.categories import Category, category_of, position

MAX_WORDS: Final = 12
ORDER: Final = "gain"
"""How a list opens: what fine-tuning did most for comes first."""


class Findable(Protocol):
    """What a list is of."""

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
class Finder:
    """What a visitor asks of a list. Categories that it does not have, bases that it does not have and are not served
    and unknown orders count as none."""

    words: str = ""
    category: str = ""
    order: str = ORDER
    base: str = ""

    orders: ClassVar[Collection[str]]

    @classmethod
    def of(cls, data: Mapping[str, Any], listed: Collection[Findable]) -> Self:
        """Read the parameters `q`, `category` and `sort` of an address that asks about all that is `listed`."""
        words = " ".join(str(data.get("q", "")).split()[:MAX_WORDS])[:120]
        category, order, base = (str(data.get(name, "")) for name in ("category", "sort", "base"))
        is_known = any(item.category.key == category for item in listed)
        named = [*(item.base for item in listed), *(served.name for served in bases.served())]
        base = next((name for name in named if name.casefold() == base.casefold()), "")
        return cls(words, category if is_known else "", order if order in cls.orders else ORDER, base)

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

    def matches(self, item: Findable) -> bool:
        """Whether `item` has every word, the category and the base."""
        is_of_kind = self.category in ("", item.category.key) and self.base in ("", item.base)
        return is_of_kind and all(word in item.text for word in searchable(self.words).split())


def searchable(*words: str) -> str:
    """`words` as they are looked through: in one text, without case and underscores."""
    return " ".join(words).replace("_", " ").casefold()


def query_string(**parameters: str) -> str:
    """The shortest query string of `parameters`: empty, or with its question mark."""
    given = {name: value for name, value in parameters.items() if value}
    return f"?{urlencode(given)}" if given else ""


def count_by_category(listed: Iterable[Findable]) -> list[tuple[Category, int]]:
    """The categories that `listed` has, in their order; all without a colour of their own are one."""
    kinds = [item.category for item in listed]
    counts = Counter(kind.key for kind in kinds)
    named = {kind.key: kind if kind.key != "other" else category_of("") for kind in kinds}
    return [(kind, counts[kind.key]) for kind in sorted(named.values(), key=position)]


def count_by_base(listed: Iterable[Findable]) -> list[tuple[str, int]]:
    """The bases that are served, and the others that `listed` is for, each with how much of it is its own."""
    counts = Counter(item.base for item in listed)
    served = [base.name for base in bases.served()]
    names = dict.fromkeys([*served, *counts])
    return [(name, counts[name]) for name in sorted(names, key=lambda name: (name not in served, -counts[name], name))]
