"""The models that a program may name, as OpenAI's clients read them: bases, `auto`, adapters and their versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from asgiref.sync import sync_to_async

from inference.wire.contract import WireError
from loraland import bases
from loraland.bases import BASE, Base
from loraland.catalogue.composition import MAX_PARTS, Composition, base_called, base_of, named
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.versions import SLUG, AdapterVersionQuerySet
from loraland.generations.filling import form_of
from loraland.generations.visitor import Visitor
from loraland.inference_client import ready_worker
from loraland.refusal import Refused
from loraland.rows import Remembered


def offered(visitor: Visitor) -> AdapterVersionQuerySet:
    """The versions of which a program hears. What is made for a base that is not served is none of its models."""
    return AdapterVersion.objects.seen_by(visitor).served()


async def meant(name: str, visitor: Visitor) -> AdapterVersion | Composition | None:
    """What a program means by `name`; None is a base, of which no row tells, as ``auto`` is where there is no text to
    choose by. Raises `Refused`."""
    return None if name == BASE else await sync_to_async(_meant)(bases.without_auto(name), visitor)


def _meant(name: str, visitor: Visitor) -> AdapterVersion | Composition | None:
    shown = _shown(visitor.is_staff, bases.served()).one(name) if SLUG.fullmatch(name) else None
    return shown or named(name, offered(visitor))


@cache
def _shown(is_staff: bool, served: tuple[bases.Base, ...]) -> Remembered[AdapterVersion]:
    """The versions, of the bases that are `served`, which adapters' own names mean to staff or to everybody else."""
    reader = Visitor(None, "", "", is_staff=is_staff)
    return Remembered(lambda slug: offered(reader).shown_as(slug), lambda slug: offered(reader).named(slug))


async def entry(name: str, visitor: Visitor) -> dict[str, Any]:
    """The entry of one name, or of a sum. Raises `Refused` as `named` does."""
    told = await sync_to_async(_named)(name, visitor)
    return (await states()).tell(told)


def added_up(name: str) -> int:
    """How many adapters `name`, which is one of ``auto``, adds up. Raises `Refused` for more than a sum has."""
    if not 0 < (count := bases.parts_of_auto(name)) <= MAX_PARTS:
        sentence = f"{name[:40]} would add up {count} adapters; a sum has at most {MAX_PARTS}, and one at least."
        raise Refused("invalid_model", sentence, param="model")
    return count


def _named(name: str, visitor: Visitor) -> dict[str, Any]:
    if bases.is_auto(name):
        added_up(name)
        named = base_called(bases.without_auto(name))
        return of_auto(name, [named] if bases.without_auto(name) != BASE else bases.served())
    version = _meant(name, visitor)
    if isinstance(version, Composition):
        return _of_sum(version, name)
    return of_version(version, name) if version else of_base(base_of(None, name))


@dataclass(frozen=True)
class States:
    """What the workers of each base say: how long a prompt and its answer may be together; None while none is up."""

    lengths: Mapping[str, int | None]

    def tell(self, entry: dict[str, Any]) -> dict[str, Any]:
        """`entry` with whether a worker of its base is up, and that length, as vLLM tells it; null while no worker says
        so."""
        length = self.lengths.get(entry["loraland"]["base"])
        entry["loraland"]["base_is_up"] = length is not None
        entry["max_model_len"] = length or None
        return entry


async def states() -> States:
    return States({base.name: await _context(base) for base in bases.served()})


async def _context(base: Base) -> int | None:
    """None while no worker of `base` is ready, as far as can be seen."""
    try:
        worker = await ready_worker(base)
    except WireError:
        return None
    return worker.load.context_length if worker else None


def of_base(base: Base) -> dict[str, Any]:
    return _entry(base.called, 0, base.name, {"base": base.name}, base.name)


def of_auto(name: str, among: Sequence[Base]) -> dict[str, Any]:
    """The entry of whichever adapter fits, or of the first of the bases `among` which it looks."""
    about = {"base": among[0].name, "among": [base.name for base in among]}
    return _entry(name, 0, "loraland", about, name)


def of_version(version: AdapterVersion, name: str) -> dict[str, Any]:
    adapter, base = version.adapter, version.adapter.served_base
    about: dict[str, Any] = {
        "base": base.name,
        "named_base": version.named_base or None,
        "base_confirmed": version.base_confirmed,
        "adapter": adapter.slug,
        "name": adapter.name,
        "category": adapter.category,
        "summary": adapter.summary,
        "digest": version.digest,
        "method": version.method,
        "rank": version.rank,
        "fields": list(version.field_names),
        "form": form_of(version.field_names),
    }
    if version.components:
        about["components"] = version.components
    if version.invocation:
        about["invocation"] = {"tokens": list(version.invocation), "text": version.invoked_by or None}
    return _entry(
        name,
        int(version.created.timestamp()),
        adapter.author or "loraland",
        about,
        str(version),
        adapter.served_base.called,
    )


def _of_sum(composition: Composition, name: str) -> dict[str, Any]:
    base = base_of(composition)
    about = {
        "base": base.name,
        "components": composition.components,
        "digest": composition.digest,
        "rank": composition.rank,
        "fields": list(composition.field_names),
        "form": form_of(composition.field_names),
    }
    newest = max(version.created for version in composition.versions)
    return _entry(name, int(newest.timestamp()), "loraland", about, str(composition), base.called)


def _entry(
    name: str, created: int, owner: str, about: dict[str, Any], root: str, parent: str | None = None
) -> dict[str, Any]:
    """An entry as OpenAI has it, and vLLM: `root` is what answers, `parent` what it is added to."""
    entry = {"id": name, "object": "model", "created": created, "owned_by": owner, "root": root, "parent": parent}
    entry |= {"permission": []}
    return entry | {"loraland": about}
