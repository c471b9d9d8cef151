"""How files in quarantine become a version of an adapter: the one door for uploads and imports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.db import transaction

from inference.tasks.card import Card
from loraland import bases
from loraland.catalogue import embeddings, store
from loraland.catalogue.blends import BlendPart, as_values
from loraland.catalogue.composition import Composition, base_of
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.upload.bases import base_named_in

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@dataclass(frozen=True)
class Submission:
    """A version, and whether its files have to be examined; they need not when the adapter has them already.

    `was_repaired`: those that it has were damaged on the disk, and were taken from the upload.
    """

    version: AdapterVersion
    is_new: bool
    was_repaired: bool = False
    twins: tuple[AdapterVersion, ...] = ()
    """Versions of other adapters with the same weights."""


def find(slug: str, digest: str) -> AdapterVersion | None:
    """The version of the adapter `slug` with this digest that need not be submitted again."""
    versions = AdapterVersion.objects.filter(adapter__slug=slug, digest=digest).exclude(digest="")
    return versions.exclude(status=AdapterVersion.Status.REJECTED).select_related("adapter").first()


def submit(
    token: str,
    slug: str,
    card: Card,
    *,
    user: User | None = None,
    publish: bool = True,
    base_confirmed: bool = False,
    remarks: Iterable[str] = (),
    is_loaded: bool = False,
) -> Submission:
    """Make a version of the adapter `slug` from the files in quarantine `token`, or find the one they are.

    An adapter that exists keeps its name and texts, and its base once a version was not rejected.
    """
    files = store.quarantined(token)
    told = {"publish_when_ready": publish, "base_confirmed": base_confirmed, "is_loaded": is_loaded}
    card = replace(card, base=card.base or base_named_in(files) or _only_base())
    digest = store.digest_in(files)
    return _entered(token, slug, digest, digest, card, user, told | {"remarks": [*remarks]})


def submit_blend(
    slug: str,
    card: Card,
    blend: Composition,
    *,
    token: str = "",
    user: User | None = None,
    publish: bool = True,
    base_confirmed: bool = False,
    chats_freely: bool = False,
) -> Submission:
    """The same of a `blend`, whose gate's file is in quarantine `token`; without one where its gate has none.

    A card without a prompt leaves it that of the first part, unless the blend is to chat freely; the first part's
    examples stay its own.
    """
    assert blend.gate is not None
    if not card.template and not chats_freely:
        card = replace(card, template=blend.template, fields=blend.versions[0].fields)
    card = replace(card, base=base_of(blend).name)
    told: dict[str, Any] = {"publish_when_ready": publish, "base_confirmed": base_confirmed}
    told |= {"gate": as_values(blend.gate), "components": blend.components}
    with transaction.atomic():
        submission = _entered(token, slug, blend.digest, blend.gate.digest, card, user, told)
        if submission.is_new:
            parts = enumerate(blend.versions)
            BlendPart.objects.bulk_create(
                BlendPart(blend=submission.version, part=part, position=at) for at, part in parts
            )
    return submission


def _entered(
    token: str, slug: str, digest: str, files: str, card: Card, user: User | None, told: dict[str, Any]
) -> Submission:
    """A version of `slug` that will have this `digest`, or the one that has and was not rejected. What came with
    it is stored under `files`, empty where nothing did."""
    twins = tuple(_twins(slug, digest))
    if existing := find(slug, digest):
        was_repaired = bool(files) and store.repair(token, files)  # the row may have outlived the disk
        store.drop(token)
        return Submission(existing, False, was_repaired, twins)
    with transaction.atomic():
        about = _about(card)
        adapter, is_new = Adapter.objects.get_or_create(slug=slug, defaults=about)
        if not is_new and not adapter.is_settled:
            adapter.base = about["base"]
            adapter.save(update_fields=["base"])
        version = AdapterVersion.objects.create(
            adapter=adapter,
            quarantine=token,
            created_by=user,
            template=card.template,
            fields=card.fields,
            examples=card.examples,
            training=card.training,
            score=card.score,
            **told,
        )
        embeddings.keep(version, dict(card.embedding))
    return Submission(version, True, twins=twins)


def _twins(slug: str, digest: str) -> Iterable[AdapterVersion]:
    same = AdapterVersion.objects.filter(digest=digest).exclude(digest="").exclude(adapter__slug=slug)
    return same.exclude(status=AdapterVersion.Status.REJECTED).select_related("adapter")


def _only_base() -> str:
    """The base that is meant where nobody names one; empty where the examination has several to choose from."""
    return bases.default().name if len(bases.served()) == 1 else ""


def _about(card: Card) -> dict[str, Any]:
    return {
        "name": card.name,
        "category": card.category,
        "summary": card.summary,
        "description": card.description,
        "base": card.base,
        "license": card.license,
        "author": card.author,
        "dataset": card.dataset,
    }
