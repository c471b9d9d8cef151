"""Who answers on a page: a version of an adapter, or a base alone; and what a row keeps of the two."""

from __future__ import annotations

from loraland import bases
from loraland.bases import Base
from loraland.catalogue.composition import base_called
from loraland.catalogue.models import AdapterVersion

Partner = AdapterVersion | Base


def bare_base(name: str) -> Base | None:
    """The base that `name` means by itself; None for the name of an adapter. Raises `Refused` for one not served."""
    return base_called(name) if bases.is_bare(name) else None


def version_in(partner: Partner) -> AdapterVersion | None:
    return partner if isinstance(partner, AdapterVersion) else None


def base_in(partner: Partner) -> Base | None:
    return partner if isinstance(partner, Base) else None


def kept_base(partner: Partner) -> str:
    """The name of a base that answers alone, as a row keeps it; empty for the default one and beside a version."""
    return partner.name if isinstance(partner, Base) and not partner.is_default else ""


def read_back(version: AdapterVersion | None, base: str) -> Partner:
    """Whom a row with `version` and the kept name of a `base` means; the base may not be served any more."""
    if version is not None:
        return version
    return bases.recorded(base) if base else bases.default()
