"""`manage.py import_blend FOLDER`: a blend from the shell, by the door of the admin's form."""

from __future__ import annotations

import zipfile
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.core.validators import validate_slug

from inference.tasks.card import CARD, Card
from inference.tasks.template import label_of
from loraland.catalogue import card as cards
from loraland.catalogue import slug as slugs
from loraland.catalogue import store
from loraland.catalogue.management.importing import ImportCommand
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.status import PENDING
from loraland.catalogue.upload.archive import ArchiveRefused, read_archive
from loraland.catalogue.upload.assembling import BlendRefused, assembled
from loraland.catalogue.upload.blending import Gated
from loraland.catalogue.upload.submission import submit_blend
from loraland.catalogue.upload.validation import examine


class Command(ImportCommand):
    help = "Import a blend: a folder or .zip with gate.safetensors (and a card.toml), or none for Arrow."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("source", nargs="?", type=Path, metavar="FOLDER", help="with the gate; none for Arrow")
        parser.add_argument("--slug", default="", help="name in addresses; by default the folder's")
        parser.add_argument("--parts", nargs="+", default=[], metavar="NAME", help="slugs, or slug@digest, in order")
        parser.add_argument("--top-k", type=int, help="Arrow: of how many parts the scores count at a token")
        parser.add_argument("--temperature", type=float, help="Arrow: below 1 the best part counts more")
        parser.add_argument(
            "--confirm-base", action="store_true", help="serve it though its gate names another base than its parts'"
        )
        parser.add_argument("--no-wait", action="store_true", help="do not wait for a worker's verdict")

    def handle(
        self,
        *,
        source: Path | None = None,
        slug: str = "",
        parts: list[str],
        top_k: int | None = None,
        temperature: float | None = None,
        confirm_base: bool = False,
        no_wait: bool = False,
        **options: Any,
    ) -> None:
        slug = slug or (source.resolve().stem if source else "")
        self.num_refused = 0
        _check(slug, top_k, temperature)
        try:
            with _quarantined(source) as token:
                gate = Gated(store.quarantined(token) / store.GATE) if token else None
                blend = assembled(gate, parts, top_k, temperature)
                card = _card(token, slug)
                submission = submit_blend(slug, card, blend, token=token, base_confirmed=confirm_base)
        except (BlendRefused, ArchiveRefused, cards.CardError) as error:
            self.refuse(slug, error.reasons)
        except (store.TooLarge, OSError) as error:
            self.refuse(slug, [str(error)])
        else:
            self._follow(slug, submission.version, no_wait=no_wait)
        if self.num_refused:
            raise CommandError("The blend was refused.")

    def _follow(self, slug: str, version: AdapterVersion, *, no_wait: bool) -> None:
        if claimed := AdapterVersion.objects.claim(version.pk):
            examine(claimed)
        version = AdapterVersion.objects.select_related("adapter").get(pk=version.pk)
        if version.base_doubt:
            self.stderr.write(f"{slug}: {version.base_doubt}")
        self.told(slug, version)
        if version.status in PENDING and not no_wait:
            self.wait([version], 1)


def _check(slug: str, top_k: int | None, temperature: float | None) -> None:
    """Raises `CommandError` for what no blend can be called, and no setting can be."""
    try:
        validate_slug(slug)
    except ValidationError as error:
        raise CommandError(f"{slug!r} is no slug; give one of letters, digits, - and _ with --slug.") from error
    if reason := slugs.refusal(slug):
        raise CommandError(reason)
    if (top_k is not None and top_k < 1) or (temperature is not None and not 0 < temperature < 1000):
        raise CommandError("--top-k counts parts, from 1 on, and --temperature is above 0 and below 1000.")


@contextmanager
def _quarantined(source: Path | None) -> Iterator[str]:
    """The quarantine in which the gate of `source` lies, and its card; empty for none. What ends in an error leaves
    nothing there. Raises `ArchiveRefused`, `TooLarge` and OSError."""
    if source is None:
        yield ""
        return
    with _opened(source) as files:
        token = store.receive(files)
    try:
        yield token
    except BaseException:
        store.drop(token)
        raise


@contextmanager
def _opened(source: Path) -> Iterator[dict[str, Iterable[bytes]]]:
    if source.is_file() and zipfile.is_zipfile(source):
        with source.open("rb") as archive:
            yield dict(read_archive(archive, (store.GATE,)).files)
        return
    if not (source / store.GATE).is_file():
        raise FileNotFoundError(f"{source} has no {store.GATE}; give its folder, or none for a blend by Arrow.")
    there = [name for name in (store.GATE, CARD) if (source / name).is_file()]
    yield {name: [(source / name).read_bytes()] for name in there}


def _card(token: str, slug: str) -> Card:
    """What the card beside the gate says, or no more than a name. Raises `CardError`."""
    path = store.quarantined(token) / CARD if token else None
    name = label_of(slug.replace("-", "_"))
    card = cards.read_card(path) if path and path.is_file() else Card(name=name)
    return card if card.name else replace(card, name=name)
