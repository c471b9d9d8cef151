"""A window of a long list: so many rows from a place on, and the place at which the next one begins.

A place is what the last row that was shown is ordered by. So no row is shown twice and none is left out while others
come and go, as numbered pages would do, and a window far down takes no longer than the first.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.http import Http404

from inference.adapters.storable import is_storable

Row = TypeVar("Row", bound=models.Model)
Place = tuple[Any, ...]

WINDOW: Final = 60
"""Rows of one: a full last line where cards stand in one to six columns."""
LONGEST: Final = 1000
RESULTS: Final = "results"
MORE: Final = "more"
"""The parts of a page that htmx asks for: its list, and what follows a window of it."""
BIGGEST: Final = 2**63 - 1


@dataclass(frozen=True)
class Window(Generic[Row]):
    """`rows` behind the place `after`; `next` is where they go on, as an address has it, empty at the end."""

    rows: tuple[Row, ...]
    after: Place
    next: str


class GoingOn(Protocol):
    """What is made of a window tells where the next one begins."""

    @property
    def next(self) -> str: ...


Read = TypeVar("Read", bound=GoingOn)


def window_of(rows: models.QuerySet[Row], order: Sequence[str], after: str = "", most: int = WINDOW) -> Window[Row]:
    """The first of `rows` behind `after` in `order`, which names columns as `order_by` does, a unique one at last.

    Raises `Http404` for what is no place in that order.
    """
    place = place_of(after, len(order))
    try:
        beyond = rows.filter(_beyond(order, place)) if place else rows
    except (TypeError, ValueError, OverflowError, ValidationError) as error:
        raise _nowhere(after) from error
    try:
        found = list(beyond.order_by(*order)[: most + 1])
    except OverflowError as error:  # a number or a time that the database cannot hold
        raise _nowhere(after) from error
    shown = tuple(found[:most])
    return Window(shown, place, written(shown[-1], order) if len(found) > most else "")


def all_windows(read: Callable[[str], Read]) -> Iterator[Read]:
    """What `read` makes of one place after another, from the beginning to the end of a list."""
    place, is_more = "", True
    while is_more:
        found = read(place)
        yield found
        place, is_more = found.next, bool(found.next)


def place_of(after: str, length: int) -> Place:
    """The place that an address tells, of so many values; none for the beginning. Raises `Http404`."""
    if not after:
        return ()
    try:
        place = json.loads(urlsafe_b64decode(after[:LONGEST].encode()))
    except (ValueError, RecursionError) as error:
        raise _nowhere(after) from error
    if not (isinstance(place, list) and len(place) == length and all(map(_is_plain, place)) and is_storable(place)):
        raise _nowhere(after)
    return tuple(place)


def written(row: models.Model, order: Sequence[str]) -> str:
    """Where `row` stands in `order`, for an address."""
    values = [attrgetter(name.removeprefix("-").replace("__", "."))(row) for name in order]
    plain = [value if isinstance(value, int | float | str) else _text(value) for value in values]
    return urlsafe_b64encode(json.dumps(plain, ensure_ascii=False).encode()).decode()


def _text(value: datetime | UUID) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _beyond(order: Sequence[str], place: Place) -> Q:
    """What stands behind `place`: equal in the first columns, and further in the next one.

    That it is not before it in the first is said once more, as what a database takes for the beginning of its look.
    """
    found, equal = Q(), Q()
    for name, value in zip(order, place, strict=True):
        column, further = name.removeprefix("-"), "lt" if name.startswith("-") else "gt"
        found |= equal & Q(**{f"{column}__{further}": value})
        equal &= Q(**{column: value})
    first, further = order[0].removeprefix("-"), "lte" if order[0].startswith("-") else "gte"
    return Q(**{f"{first}__{further}": place[0]}) & found


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return True
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= BIGGEST  # which infinity is not, nor what is no number


def _nowhere(after: str) -> Http404:
    return Http404(f"{after[:80]!r} is no place in this list; open it from its beginning.")
