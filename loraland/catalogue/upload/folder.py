"""A folder on this machine that holds an adapter: its card, and the version that it becomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inference.tasks.card import CARD, Card
from inference.tasks.template import label_of
from loraland.catalogue import card as cards
from loraland.catalogue import embeddings, store
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload.bases import config_in
from loraland.catalogue.upload.companions import companions_in, take, taken
from loraland.catalogue.upload.submission import find, submit
from loraland.catalogue.upload.validation import examine

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def card_in(directory: Path, slug: str) -> Card:
    """The card beside the adapter in `directory`, or one that knows no more than its slug. Raises `CardError`."""
    path = directory / CARD
    return cards.read_card(path) if path.is_file() else Card(name=label_of(slug.replace("-", "_")))


def version_of(
    directory: Path,
    slug: str,
    card: Card,
    *,
    user: User | None = None,
    confirm_base: bool = False,
    is_loaded: bool = False,
) -> AdapterVersion:
    """The version of `slug` with the files in `directory`, examined and on its way to a proof if it is a new one.

    Raises `loraland.catalogue.store.TooLarge` and OSError.
    """
    companions = companions_in(directory)
    digest = store.digest_in(directory, taken(companions, config_in(directory))[0])
    if (existing := find(slug, digest)) and store.is_kept(digest):
        embeddings.refresh(existing, dict(card.embedding))
        return existing
    token = store.receive_directory(directory)
    remarks = take(companions, token)
    submission = submit(token, slug, card, user=user, base_confirmed=confirm_base, remarks=remarks, is_loaded=is_loaded)
    if submission.is_new and (version := AdapterVersion.objects.claim(submission.version.pk)):
        examine(version)
    submitted = AdapterVersion.objects.select_related("adapter").filter(pk=submission.version.pk).first()
    version = submitted or find(slug, digest)
    assert version is not None  # only another version with its digest takes the place of a submitted one
    return version
