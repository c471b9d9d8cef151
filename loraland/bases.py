"""The base models of this site: which there are, the default one first, and what programs and pages call each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db.models import Q

from inference.bases import base_name, is_hub_id

BASE: Final = "base"
"""The default base itself, in the API and on pages; another one is ``base:`` and its name."""
AUTO: Final = "auto"
"""Whichever adapter fits a text, of all bases that are up; ``auto:`` and a base's name is one of that base's, and
``auto:3``, or ``auto:3:`` and a base's name, the sum of the three that fit best."""
_AUTO: Final = re.compile(rf"{AUTO}(?::(?P<parts>\d{{1,9}}))?(?P<base>:.+)?", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class Base:
    """A base model that is served: `model` is how BASE_MODELS says where it is, `name` what it is called."""

    model: str
    name: str

    @property
    def key(self) -> str:
        """Its name in queues."""
        return self.name.lower()

    @property
    def is_default(self) -> bool:
        return self.key == settings.BASE_KEY

    @property
    def is_served(self) -> bool:
        return of_name(self.name) is not None

    def may_be_of(self, owner: str) -> bool:
        """Whether `owner` on the hub may be its own: of a base in a folder or a file nobody knows."""
        known, _, _ = self.model.rpartition("/")
        is_known = is_hub_id(self.model) and not Path(self.model).exists()
        return not is_known or known.lower() == owner.lower()

    @property
    def max_rank(self) -> int:
        """The highest rank of an adapter that its workers take; of a base that is not served, that any does."""
        return settings.MAX_RANK.get(self.key, max_rank())

    @property
    def called(self) -> str:
        """What programs and pages call it when nobody's adapter is meant."""
        return BASE if self.is_default else f"{BASE}:{self.name}"


def default() -> Base:
    """The one that answers where nobody names one."""
    return Base(settings.BASE_MODEL, settings.BASE_NAME)


def served() -> tuple[Base, ...]:
    """All that are served here, the default one first."""
    return (default(), *(Base(model, base_name(model)) for model in settings.BASE_MODELS[1:]))


def max_rank() -> int:
    """The highest rank of an adapter that any base takes."""
    return max(settings.MAX_RANK.values())


def of_name(name: str) -> Base | None:
    """The one that is called `name`, in whatever case; None where none is."""
    return next((base for base in served() if base.key == name.lower()), None)


def recorded(name: str) -> Base:
    """The one that a row calls `name`, which may not be served any more."""
    return of_name(name) or Base("", name)


def is_bare(name: str) -> bool:
    """Whether `name` is written as that of a base alone, be it served or not."""
    return name == BASE or name.startswith(f"{BASE}:")


def is_auto(name: str) -> bool:
    """Whether `name` asks for the adapter that fits."""
    return name == AUTO or name.startswith(f"{AUTO}:")


def without_auto(name: str) -> str:
    """`name`, in which ``auto`` is the base that answers where no adapter fits."""
    if not is_auto(name):
        return name
    found = _AUTO.fullmatch(name)
    return BASE + ((found["base"] or "") if found else name.removeprefix(AUTO))


def parts_of_auto(name: str) -> int:
    """How many adapters ``auto`` is to add up by its `name`; 1 where it says nothing of that."""
    found = _AUTO.fullmatch(name)
    return int(found["parts"]) if found and found["parts"] else 1


def spoken(name: str) -> Base | None:
    """The one that `name` means as programs write it: ``base``, ``base:`` and a name, or its own name with its owner on
    the hub or without; None where it means none that is served."""
    if name == BASE:
        return default()
    owner, _, last = name.removeprefix(f"{BASE}:").rpartition("/")
    base = of_name(last)
    return base if base and (not owner or base.may_be_of(owner)) else None


def names() -> str:
    """The names of all that are served, for a sentence."""
    return together([base.name for base in served()])


def together(words: Sequence[str]) -> str:
    """`words` in a row: a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def is_served(field: str) -> Q:
    """Whether the name in `field` is that of a base that is served, as the database understands it."""
    found = Q()
    for base in served():
        found |= Q(**{f"{field}__iexact": base.name})
    return found
