"""Which models a program may name: ``base``, an adapter's slug, or one version of it as ``slug@digest-prefix``."""

from __future__ import annotations

import re
from typing import Any, Final

from django.conf import settings

from loraland.api.errors import ApiError
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.generations.start import ANSWERING

BASE: Final = "base"
_SLUG: Final = re.compile(r"[-\w]{1,80}", re.ASCII)
_PREFIX: Final = re.compile(r"[0-9a-f]{6,64}")


async def find(name: str) -> AdapterVersion | None:
    """The version that `name` means, with its adapter; None for the base model. Raises `ApiError` 404."""
    if name == BASE:
        return None
    slug, at, prefix = name.partition("@")
    adapter = await Adapter.objects.served().filter(slug=slug).afirst() if _SLUG.fullmatch(slug) else None
    if adapter is None or adapter.published is None:
        raise _missing(f"There is no model {name[:120]!r} here; GET /v1/models lists those there are.")
    version = await _version(adapter, prefix) if at else adapter.published
    version.adapter = adapter
    return version


async def listing() -> list[dict[str, Any]]:
    """Every name that `find` understands: the base, each adapter, and each version that answers by its digest."""
    entries = [_entry(BASE, 0, settings.BASE_NAME, {"base": settings.BASE_NAME})]
    versions = AdapterVersion.objects.filter(status__in=ANSWERING, adapter__in=Adapter.objects.served())
    async for version in versions.select_related("adapter").order_by("adapter__slug", "-created"):
        if version.adapter.published_id == version.pk:
            entries.append(_of(version, version.adapter.slug))
        entries.append(_of(version, str(version)))
    return entries


async def entry(name: str) -> dict[str, Any]:
    """The listing's entry of one name. Raises `ApiError` 404."""
    version = await find(name)
    return _of(version, name) if version else _entry(BASE, 0, settings.BASE_NAME, {"base": settings.BASE_NAME})


async def _version(adapter: Adapter, prefix: str) -> AdapterVersion:
    if not _PREFIX.fullmatch(prefix):
        raise _missing(f"{prefix[:80]!r} is not the beginning of a digest: give 6 to 64 of its hex digits.")
    matching = adapter.versions.filter(digest__startswith=prefix, status__in=ANSWERING)
    found = [version async for version in matching[:2]]
    if len(found) != 1:
        problem = "More than one version" if found else "No version that answers"
        raise _missing(f"{problem} of {adapter.slug} has a digest that begins with {prefix}.")
    return found[0]


def _of(version: AdapterVersion, name: str) -> dict[str, Any]:
    adapter = version.adapter
    about = {
        "base": adapter.base,
        "adapter": adapter.slug,
        "name": adapter.name,
        "category": adapter.category,
        "summary": adapter.summary,
        "digest": version.digest,
        "rank": version.rank,
        "fields": list(version.field_names),
    }
    return _entry(name, int(version.created.timestamp()), adapter.author or "loraland", about)


def _entry(name: str, created: int, owner: str, about: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner, "loraland": about}


def _missing(message: str) -> ApiError:
    return ApiError(404, "model_not_found", message, param="model")
