"""`manage.py import_adapter DIR_OR_HUB_ID …`: adapters from the shell, through the same door as uploads."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.core.validators import validate_slug
from django.db import InterfaceError, OperationalError

from inference.bases import base_name
from inference.reading import reading
from inference.tasks.card import Card
from loraland import bases
from loraland.catalogue import card as cards
from loraland.catalogue import embeddings, listed, store
from loraland.catalogue import slug as slugs
from loraland.catalogue.management.importing import ImportCommand
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.status import PENDING
from loraland.catalogue.template import TemplateError, fields_of
from loraland.catalogue.upload import hub
from loraland.catalogue.upload.archive import ArchiveRefused, read_archive
from loraland.catalogue.upload.folder import card_in, version_of
from loraland.catalogue.upload.layout import files_below, misses_here, told
from loraland.catalogue.upload.published_import import card_of, shown_template
from loraland.paper.published import Published
from loraland.paper.published import find as find_published

MLX = "adapters.safetensors"
REFUSALS = (cards.CardError, TemplateError, store.TooLarge, ArchiveRefused)


class Command(ImportCommand):
    help = "Import LoRA adapters from directories, .zips (with a card.toml or bare) or from the Hugging Face hub."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("sources", nargs="+", metavar="DIR_OR_HUB_ID")
        parser.add_argument("--slug", default="", help="name in addresses; by default the directory's or repository's")
        parser.add_argument("--template", type=Path, metavar="FILE", help="the prompt that it was trained on")
        parser.add_argument(
            "--confirm-base", action="store_true", help="serve it though its config names another base of this shape"
        )
        parser.add_argument("--base", default="", help="the base model that it is for, whatever its config names")
        parser.add_argument("--no-wait", action="store_true", help="do not wait for the workers' verdicts")

    def handle(
        self,
        *,
        sources: list[str],
        slug: str = "",
        template: Path | None = None,
        confirm_base: bool = False,
        base: str = "",
        no_wait: bool = False,
        **options: Any,
    ) -> None:
        if (slug or template) and len(sources) > 1:
            raise CommandError("--slug and --template are for one adapter; import one source at a time with them.")
        self.num_refused = 0
        self.base, self.confirm_base = _base_named(base), confirm_base or bool(base)
        self.template = _text_of(template)
        with ExitStack() as stack:
            imported = [self._import(source, slug, stack) for source in sources]
        embeddings.complete(AdapterVersion.objects.shown())
        listed.complete()
        versions = [version for version in imported if version is not None]
        if not no_wait:
            self.wait([version for version in versions if version.status in PENDING], len(sources))
        if self.num_refused:
            raise CommandError(f"{self.num_refused} of {len(sources)} adapters were refused.")
        if len(sources) > 1:
            published = AdapterVersion.objects.filter(pk__in=[version.pk for version in versions], status="published")
            self.stdout.write(f"{published.count()} of {len(sources)} are published.")

    def _import(self, source: str, slug: str, stack: ExitStack) -> AdapterVersion | None:
        """The version that `source` is now; None when it was refused, which has been told."""
        entry = None if Path(source).exists() else find_published(source)
        slug = slug or (entry.slug if entry else _name_of(Path(source)))
        try:
            validate_slug(slug)
            if reason := slugs.refusal(slug):
                self.refuse(source, [reason])
                return None
            with reading(source, hub.HubError, *REFUSALS, OperationalError, InterfaceError):
                directory = self._directory(source, stack)
                card = self._card(directory, slug, entry)
                _check_base(slug, self.base)
                version = version_of(directory, slug, card, confirm_base=self.confirm_base)
        except ValidationError:
            self.refuse(source, [f"{slug!r} is no slug; give one of letters, digits, - and _ with --slug."])
        except (cards.CardError, TemplateError, ArchiveRefused) as error:
            self.refuse(slug, error.reasons)
        except (hub.HubError, store.TooLarge, OSError) as error:
            self.refuse(slug, [str(error)])
        else:
            for warning in filter(None, (version.base_doubt, *version.remarks)):
                self.stderr.write(f"{slug}: {warning}")
            return self.told(slug, version)
        return None

    def _directory(self, source: str, stack: ExitStack) -> Path:
        directory = Path(source)
        if directory.is_file():
            return self._unpacked(source, stack)
        if not directory.is_dir():
            if source.startswith((".", "/", "~")) or source.count("/") != 1:
                raise NotADirectoryError(f"{source} is no directory; give one with the adapter's two files.")
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            hub.fetch(hub.HuggingFaceHub(), source, directory)
        if (
            all((directory / name).is_file() for name in (MLX, store.CONFIG))
            and not (directory / store.WEIGHTS).is_file()
        ):
            directory = self._converted(directory, stack)
        if not all((directory / name).is_file() for name in store.FILES):
            raise FileNotFoundError(" ".join(misses_here(files_below(directory), source)))
        return directory

    def _converted(self, directory: Path, stack: ExitStack) -> Path:
        """The adapter of MLX in `directory` as PEFT's, in a folder for the time of the import. The site loads no
        torch, so that another process does it."""
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = [sys.executable, "-m", "inference.adapters.convert", str(directory), "--to", str(home)]
        run = subprocess.run(command, cwd=settings.REPO_DIR, capture_output=True, text=True, check=False)
        if run.returncode:
            raise FileNotFoundError(run.stderr.strip())
        return home

    def _unpacked(self, source: str, stack: ExitStack) -> Path:
        """The adapter of the .zip `source`, in a folder for the time of the import."""
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with Path(source).open("rb") as archive:
            contents = read_archive(archive)
            for name, chunks in contents.files.items():
                with (directory / name).open("xb") as file:
                    file.writelines(chunks)
        for name, data in contents.companions.items():
            (directory / name).write_bytes(data)
        if contents.ignored:
            self.stderr.write(f"{source}: {told(contents.ignored)}")
        return directory

    def _card(self, directory: Path, slug: str, entry: Published | None) -> Card:
        """What is known of the adapter in `directory`; the base and prompt of the command line win over any other."""
        if entry is not None:
            return card_of(entry, self.template or shown_template(entry, directory))
        card = card_in(directory, slug)
        card = replace(card, base=self.base or card.base)
        if not self.template:
            return card
        return replace(card, template=self.template, fields=fields_of(self.template), examples=[])


def _name_of(path: Path) -> str:
    return path.stem if path.is_file() and path.suffix.lower() == ".zip" else path.resolve().name


def _text_of(template: Path | None) -> str:
    if template is None:
        return ""
    try:
        return template.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"The prompt in {template} cannot be read: {error}.") from error


def _base_named(base: str) -> str:
    """The name in --base. Raises `CommandError` for a model that only ends in the name of one that is served."""
    served = bases.of_name(base_name(base))
    if served and "/" in base and bases.spoken(base) is None:
        told = f"is another model than {served.model}, which is served"
        raise CommandError(f"--base {base} {told}; write --base {served.name} if the adapter is for that one.")
    return base_name(base)


def _check_base(slug: str, base: str) -> None:
    """An adapter that is here keeps its base. Raises `CardError`."""
    known = Adapter.objects.filter(slug=slug).first() if base else None
    if known and known.is_settled and known.base.lower() != base.lower():
        raise cards.CardError([f"{slug} is an adapter for {known.base}; import these weights under another --slug."])
