"""`manage.py copy_store`: a folder of adapters into a store that hosts share, and whether all is there."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.adapters.stored import bring_proven, digest_of, files_in, is_digest
from inference.objects.address import Address, AddressRefused, read_address
from inference.objects.failures import Damaged, NotStored, StoreAway
from inference.objects.store import ObjectStore
from loraland.catalogue import blends
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.status import WITHOUT_FILES


class Command(BaseCommand):
    help = "Copy a folder of adapters to ADAPTER_STORE, or check that the store holds what the catalogue needs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--from", dest="source", type=Path, help="the folder; by default VAR_DIR/adapters")
        parser.add_argument("--to", default="", help="s3://bucket/folder, gs://… or az://…; by default ADAPTER_STORE")
        parser.add_argument("--check", action="store_true", help="copy nothing: read and prove all that is needed")

    def handle(self, *, source: Path | None, to: str, check: bool, **options: Any) -> None:
        """Each folder is proved before it goes; one that is there stays, so a copy that was broken off goes on."""
        address = _address(to)
        try:
            if check:
                wrong = list(self._check(address))
            else:
                wrong = list(self._copy(source or settings.VAR_DIR / "adapters", address))
        except StoreAway as error:
            raise CommandError(f"{error}; what is copied stays, so run it again") from error
        if wrong:
            raise CommandError("\n".join(wrong))

    def _copy(self, source: Path, address: Address) -> Iterator[str]:
        """What is wrong with a folder that was left out."""
        if not source.is_dir():
            raise CommandError(f"{source} is no folder; name the one that holds the adapters with --from")
        objects, counts = ObjectStore(address), [0, 0]
        for directory in sorted(path for path in source.iterdir() if is_digest(path.name)):
            if digest_of(directory) != directory.name:
                yield f"{directory} does not hold what its name says; import that adapter again"
                continue
            is_new = objects.put(directory.name, directory, files_in(directory))
            counts[is_new] += 1
            self.stdout.write(f"{directory.name} {'copied' if is_new else 'was there'}")
        self.stdout.write(f"{counts[True]} copied, {counts[False]} were in {address}")

    def _check(self, address: Address) -> Iterator[str]:
        """What is missing or damaged of what the catalogue needs; what nobody needs is told, and no fault."""
        objects, needed = ObjectStore(address), _needed()
        there = {name for name in objects.folders() if is_digest(name)}
        for digest in sorted(needed):
            try:
                with TemporaryDirectory(prefix=".check.", dir=settings.VAR_DIR) as directory:
                    bring_proven(objects)(digest, Path(directory))
            except NotStored:
                yield f"{digest}, {needed[digest]}, is missing; import it again"
            except Damaged as error:
                yield f"{digest}, {needed[digest]}, is damaged ({error}); import it again"
        for digest in sorted(there - needed.keys()):
            self.stdout.write(f"{digest} is needed by no version")
        self.stdout.write(f"{len(needed)} are needed, {len(there)} are in {address}")


def _address(text: str) -> Address:
    """Where to; its options are ADAPTER_STORE's."""
    try:
        address = read_address("--to", text, settings.ADAPTER_STORE_OPTIONS) if text else settings.ADAPTER_STORE
    except AddressRefused as error:
        raise CommandError(str(error)) from error
    if address is None or address.is_local:
        raise CommandError(
            "name the store with --to or ADAPTER_STORE, such as s3://bucket/adapters; for a folder use cp"
        )
    return address


def _needed() -> dict[str, str]:
    """The digests that versions with files are computed from, each with the name of one."""
    versions = AdapterVersion.objects.exclude(status__in=WITHOUT_FILES).select_related("adapter")
    needed: dict[str, str] = {}
    for version in versions.iterator():
        digests = [blends.own_files(version), *(part["digest"] for part in version.components)]
        needed |= {digest: str(version) for digest in digests if digest}
    return needed
