"""Which models a program may name: ``base``, an adapter's slug, one version of it as ``slug@digest-prefix``, or a
weighted sum of these as ``slug+0.5*other@digest-prefix``.
"""

from __future__ import annotations

import re
from typing import Any, Final

from django.conf import settings

from loraland.api.errors import ApiError
from loraland.catalogue.composition import MAX_PARTS, Composition
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.slug import BASE
from loraland.generations.models import Generation
from loraland.generations.visitor import Visitor

_SLUG: Final = re.compile(r"[-\w]{1,80}", re.ASCII)
_WEIGHT: Final = re.compile(r"-?\d{1,3}(\.\d{1,6})?", re.ASCII)
_PREFIX: Final = re.compile(r"[0-9a-f]{6,64}")


async def find(name: str, visitor: Visitor) -> AdapterVersion | Composition | None:
    """The version that `name` means to `visitor`, with its adapter, or the sum; None for the base model.

    Raises `ApiError`: 404 for what is not there, 400 for a sum that has no meaning.
    """
    if name == BASE:
        return None
    terms = [_term(each) for each in name.split("+")]
    if len(terms) > MAX_PARTS:
        sentence = f"{len(terms)} adapters are added up; name at most {MAX_PARTS}."
        raise ApiError(400, "invalid_model", sentence, param="model")
    if len(terms) == 1 and terms[0][1] == 1:
        return await _one(terms[0][0], visitor)
    composition = Composition(tuple([(await _one(each, visitor), weight) for each, weight in terms]))
    if composition.problem:
        raise ApiError(400, "invalid_model", composition.problem, param="model")
    return composition


def _term(text: str) -> tuple[str, float]:
    """A name and its weight, 1 where there is none before a star."""
    before, star, name = text.partition("*")
    if star and not _WEIGHT.fullmatch(before):
        sentence = f"{before[:40]!r} is no weight; write a number such as 0.5 or -1 before the *."
        raise ApiError(400, "invalid_model", sentence, param="model")
    return (name, float(before)) if star else (text, 1.0)


async def _one(name: str, visitor: Visitor) -> AdapterVersion:
    if name == BASE:
        sentence = "The base is part of every answer and has no weight; add adapters only."
        raise ApiError(400, "invalid_model", sentence, param="model")
    slug, at, prefix = name.partition("@")
    adapter = await Adapter.objects.served().filter(slug=slug).afirst() if _SLUG.fullmatch(slug) else None
    if adapter is None or adapter.published is None:
        raise _missing(f"There is no model {name[:120]!r} here; GET /v1/models lists those there are.")
    version = await _version(adapter, prefix, visitor) if at else adapter.published
    version.adapter = adapter
    return version


def name_of(generation: Generation) -> str:
    """The name, with the digests of all versions, that `find` reads back as what answers in `generation`."""
    if generation.components:
        return "+".join(f"{_written(each['weight'])}*{each['model']}" for each in generation.components)
    return str(generation.adapter_version) if generation.adapter_version else BASE


def _written(weight: float) -> str:
    """A weight as `_WEIGHT` reads it."""
    return f"{weight:.6f}".rstrip("0").rstrip(".")


async def listing(visitor: Visitor) -> list[dict[str, Any]]:
    """Every name that `find` understands: the base, each adapter, and by its digest each version that answers."""
    entries = [_entry(BASE, 0, settings.BASE_NAME, {"base": settings.BASE_NAME})]
    versions = AdapterVersion.objects.answering().seen_by(visitor).filter(adapter__in=Adapter.objects.served())
    async for version in versions.select_related("adapter").order_by("adapter__slug", "-created"):
        if version.adapter.published_id == version.pk:
            entries.append(_of(version, version.adapter.slug))
        entries.append(_of(version, str(version)))
    return entries


async def entry(name: str, visitor: Visitor) -> dict[str, Any]:
    """The listing's entry of one name, or of a sum. Raises `ApiError` as `find` does."""
    version = await find(name, visitor)
    if isinstance(version, Composition):
        return _of_sum(version, name)
    return _of(version, name) if version else _entry(BASE, 0, settings.BASE_NAME, {"base": settings.BASE_NAME})


async def _version(adapter: Adapter, prefix: str, visitor: Visitor) -> AdapterVersion:
    if not _PREFIX.fullmatch(prefix):
        raise _missing(f"{prefix[:80]!r} is not the beginning of a digest: give 6 to 64 of its hex digits.")
    matching = adapter.versions.answering().seen_by(visitor).filter(digest__startswith=prefix)
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


def _of_sum(composition: Composition, name: str) -> dict[str, Any]:
    about = {
        "base": settings.BASE_NAME,
        "components": composition.record,
        "digest": composition.digest,
        "rank": composition.rank,
        "fields": list(composition.field_names),
    }
    return _entry(name, max(int(each.created.timestamp()) for each in composition.versions), "loraland", about)


def _entry(name: str, created: int, owner: str, about: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner, "loraland": about}


def _missing(message: str) -> ApiError:
    return ApiError(404, "model_not_found", message, param="model")
