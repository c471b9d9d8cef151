"""The models that a program may name, all of them or from one on: read a few at a time, however many there are.

The whole list is sent while it is read, so that neither its length nor a slow reader costs memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import or_
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db.models import Q
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from loraland import bases
from loraland.api.entries import States, of_auto, of_base, of_version, offered, states
from loraland.api.failing import ApiError
from loraland.bases import AUTO, BASE, Base
from loraland.catalogue.composition import base_called
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.versions import NAME
from loraland.catalogue.windows import all_windows, window_of
from loraland.generations.visitor import Visitor
from loraland.long_answers import long_answer

Entry = dict[str, Any]
READ: Final = 200
"""Versions that are read at once."""
MOST: Final = 1000
"""Entries of one page."""
ORDER: Final = ("adapter__slug", "-created", "-pk")
LONG: Final = (
    *("template", "examples", "training", "score", "reasons", "remarks"),
    *(f"adapter__{name}" for name in ("description", "dataset", "license")),
)
"""Columns of which no entry tells."""


@dataclass(frozen=True)
class ModelList:
    """The list as `visitor` may see it: of the bases `shown`, with `auto` by its name for these, behind `after`."""

    visitor: Visitor
    shown: tuple[Base, ...]
    auto: str
    states: States
    after: str

    @property
    def head(self) -> list[Entry]:
        """The bases, and whichever adapter fits."""
        return [*map(of_base, self.shown), of_auto(self.auto, self.shown)]

    def entries(self) -> Iterator[Entry]:
        """The bases, `auto`, each adapter, and by its digest each version that answers. Raises `ApiError`."""
        head = self.head
        names = [entry["id"] for entry in head]
        is_in_head = self.after in names
        if self.after and not is_in_head and not NAME.fullmatch(self.after):
            sentence = f"after is {self.after[:80]!r}, which this list cannot have; give the id of one of its entries."
            raise ApiError(400, "invalid_value", sentence, "after")
        if is_in_head or not self.after:
            head = head[names.index(self.after) + 1 :] if is_in_head else head
            found = self._named("")
        else:
            head, found = [], self._named(self.after)
        return map(self.states.tell, (entry for part in (head, found) for entry in part))

    def _named(self, after: str) -> Iterator[Entry]:
        """The entries of adapters behind the one called `after`; where that is gone, those of the next adapter on."""
        slug, is_met = after.partition("@")[0], False
        for version in self._versions(slug):
            for entry in _entries_of(version):
                if version.adapter.slug != slug or is_met:
                    yield entry
                is_met = is_met or entry["id"] == after

    def _versions(self, slug: str) -> Iterator[AdapterVersion]:
        """Those of `slug` and of the adapters behind it."""
        of_shown = reduce(or_, (Q(adapter__base__iexact=base.name) for base in self.shown))
        rows = offered(self.visitor).answering().filter(of_shown, adapter__published__isnull=False)
        rows = rows.filter(adapter__slug__gte=slug).select_related("adapter").defer(*LONG)
        for window in all_windows(lambda place: window_of(rows, ORDER, place, READ)):
            yield from window.rows


async def listing(request: HttpRequest, visitor: Visitor, only: str, limit: int | None, after: str) -> HttpResponseBase:
    """The whole list, or the `limit` entries behind `after`; with `only` of that base alone.

    Raises `Refused` for a base that is not served, and `ApiError` for what is no page.
    """
    if limit is not None and not 1 <= limit <= MOST:
        sentence = f"limit is {limit}; give a number from 1 to {MOST}, or none for the whole list."
        raise ApiError(400, "invalid_value", sentence, "limit")
    shown = (base_called(only if bases.is_bare(only) else f"{BASE}:{only}"),) if only else bases.served()
    auto = f"{AUTO}:{shown[0].name}" if only else AUTO
    entries = ModelList(visitor, shown, auto, await states(), after).entries()
    if limit is not None:
        return JsonResponse(_page(await sync_to_async(lambda: list(islice(entries, limit + 1)))(), limit))
    return long_answer(request, _pieces(entries), "application/json")


def _page(found: list[Entry], limit: int) -> dict[str, Any]:
    data = found[:limit]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ends, "has_more": len(found) > limit}


def _pieces(entries: Iterator[Entry]) -> Iterator[str]:
    """The text of the whole list, some entries at a time."""
    yield '{"object": "list", "data": ['
    separator = ""
    while some := list(islice(entries, READ)):
        yield separator + ", ".join(map(json.dumps, some))
        separator = ", "
    yield '], "has_more": false}'


def _entries_of(version: AdapterVersion) -> Iterator[Entry]:
    if version.adapter.published_id == version.pk:
        yield of_version(version, version.adapter.slug)
    yield of_version(version, str(version))
