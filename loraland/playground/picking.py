"""The choice of an adapter, as one types: to chat with, or for a column of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

from django.db.models import QuerySet
from django.urls import reverse

from inference.wire.digits import whole
from loraland import bases
from loraland.bases import AUTO, Base
from loraland.catalogue.finder import Finder, query_string
from loraland.catalogue.listed import ListedAdapter
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.versions import Reader
from loraland.catalogue.windows import window_of
from loraland.playground.messages import MAX_COLUMNS

QUERY_CHARS: Final = 120
"""So much of what is searched for is looked at."""
KINDS: Final = 200
"""So many kinds of work are offered to choose from."""


@dataclass(frozen=True)
class Aim:
    """What is chosen for: the column at `position` of those called `columns`, or a chat where there are none."""

    columns: tuple[str, ...] = ()
    position: int = 0

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read the parameters `columns` and `position` of an address; what they cannot be counts as a chat."""
        columns = tuple(filter(None, str(data.get("columns", "")).split(",")))[:MAX_COLUMNS]
        try:
            return cls(columns, whole(str(data.get("position", "")), len(columns) - 1)) if columns else cls()
        except ValueError:
            return cls()

    def address(self, name: str) -> str:
        """The page that opens once `name` is chosen."""
        if not self.columns:
            return f"{reverse('chat')}?{urlencode({'adapter': name}, safe=':')}"
        names = [*self.columns[: self.position], name, *self.columns[self.position + 1 :]]
        return f"{reverse('compare')}?columns={quote(','.join(names), safe=',:@')}"


@dataclass(frozen=True)
class Pick:
    """One who can be chosen: `version` is None for a base, and for whoever fits."""

    address: str
    title: str
    about: str
    version: AdapterVersion | None = None


@dataclass(frozen=True)
class Picks:
    """A window of those that have the words of `query` and the `category`; `found` is how many there are in all."""

    query: str
    category: str
    aim: Aim
    picks: tuple[Pick, ...]
    found: int
    more: str

    @property
    def columns(self) -> str:
        return ",".join(self.aim.columns)


def picks(data: Mapping[str, Any], reader: Reader) -> Picks:
    """What an address asks for by `q`, `category`, `after` and its aim. Raises `Http404` for what is no place."""
    query, category, after = (str(data.get(name, "")).strip() for name in ("q", "category", "after"))
    aim, rows = Aim.of(data), _rows(query, category)
    window = window_of(rows.select_related("adapter__published"), ("name", "adapter_id"), after)
    bare = [] if query or category or after else list(_bare(aim))
    shown = (*bare, *_of_adapters([row.adapter for row in window.rows], aim, reader))
    position = str(aim.position) if aim.columns else ""
    asked = {"q": query, "category": category, "columns": ",".join(aim.columns), "position": position}
    more = query_string(**asked, after=window.next) if window.next else ""
    return Picks(query, category, aim, shown, len(window.rows) if not (after or window.next) else rows.count(), more)


def categories() -> list[str]:
    """The kinds of work of adapters that answer here, as they are called."""
    names = ListedAdapter.objects.served().exclude(category="").order_by("category").values_list("category", flat=True)
    return list(names.distinct()[:KINDS])


def _rows(query: str, category: str) -> QuerySet[ListedAdapter]:
    """The adapters that answer here and have the words and the category."""
    rows = ListedAdapter.objects.served().filter(adapter__published__isnull=False).defer("text")
    found = Finder(words=query[:QUERY_CHARS]).found(rows)
    return found.filter(category=category) if category else found


def _bare(aim: Aim) -> Iterator[Pick]:
    """Whoever fits, for a chat, and the bases."""
    if not aim.columns:
        yield Pick(aim.address(AUTO), "Ask the land", "Whichever adapter fits your words answers")
    for base in bases.served():
        about = "The plain base model" if base.is_default else "Another plain base model"
        yield Pick(aim.address(base.called), base.name, about)


def _of_adapters(adapters: Sequence[Adapter], aim: Aim, reader: Reader) -> Iterator[Pick]:
    """Each of `adapters`, for a column with its other ready versions behind it."""
    others = _ready(adapters, reader) if aim.columns else {}
    for adapter in adapters:
        if (version := adapter.published) is None:
            continue
        version.adapter = adapter
        yield Pick(aim.address(adapter.slug), adapter.name, _about(version), version)
        for other in others.get(adapter.pk, ()):
            other.adapter = adapter
            name = f"{adapter.slug}@{other.short_digest}"
            yield Pick(aim.address(name), f"{adapter.name} @{other.short_digest}", "A version that is not shown", other)


def _ready(adapters: Iterable[Adapter], reader: Reader) -> dict[int, list[AdapterVersion]]:
    """The ready versions of each of `adapters` of which `reader` may hear, by its key; without those that are shown."""
    shown = {adapter.pk: adapter.published_id for adapter in adapters}
    versions = AdapterVersion.objects.seen_by(reader).filter(adapter__in=shown, status=AdapterVersion.Status.READY)
    found: dict[int, list[AdapterVersion]] = {}
    for version in versions.exclude(digest=""):
        if version.pk != shown[version.adapter_id]:
            found.setdefault(version.adapter_id, []).append(version)
    return found


def _about(version: AdapterVersion) -> str:
    adapter, base = version.adapter, version.adapter.served_base
    blend = f"A blend of {len(version.components)}. " if version.gate else ""
    return f"{blend}{_on(base)}{adapter.summary}"


def _on(base: Base) -> str:
    return "" if base.is_default else f"On {base.name}. "
