"""The next state of an adapter that learns: files whose config is that of the version which answers now.

They are examined as any are. What follows from the config and from the prompt stays as it was found of that version:
its facts and remarks, whether its base was confirmed, and that something invokes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.db import IntegrityError, transaction

from inference.tasks.card import CARD
from loraland.catalogue import embeddings, store
from loraland.catalogue.alone import alone
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.upload.companions import COMPANIONS
from loraland.catalogue.upload.examined import Examined
from loraland.catalogue.upload.submission import find
from loraland.catalogue.upload.validation import examine_upload

if TYPE_CHECKING:
    from django.contrib.auth.models import User

OF_CONFIG: Final = ("config", "remarks", "rank", "lora_alpha", "target_modules", "num_parameters", "base_confirmed")
OF_PROMPT: Final = ("template", "fields", "examples")


def succeed(adapter: Adapter | None, directory: Path, user: User | None) -> AdapterVersion | None:
    """A version with the files in `directory`, on its way to a proof; None where they are no next state of what
    `adapter` answers with, or refused, so that they go the whole way. Raises `store.TooLarge` and OSError."""
    last = adapter.published if adapter else None
    if adapter is None or last is None or not last.is_loaded or last.gate or not adapter.is_served:
        return None
    if any((directory / name).exists() for name in (CARD, *COMPANIONS)):
        return None
    token = store.receive_directory(directory)
    try:
        found = examine_upload(store.quarantined(token), adapter.base)
        if not _is_next(found, last, adapter) or find(adapter.slug, found.digest):
            return None
        version = _entered(token, found, last, user)
    finally:
        store.drop(token)
    if version:
        version.probe()
        version.refresh_from_db(fields=["status", "reasons"])
    return version


def _is_next(found: Examined, last: AdapterVersion, adapter: Adapter) -> bool:
    is_sound = not found.reasons and found.base == adapter.served_base
    return is_sound and found.facts["config"] == last.config and found.digest != last.digest


def _entered(token: str, found: Examined, last: AdapterVersion, user: User | None) -> AdapterVersion | None:
    """The row, and the files in the store; None where another call came first with the same weights."""
    values = {name: getattr(last, name) for name in (*OF_CONFIG, *OF_PROMPT)}
    version = AdapterVersion(
        adapter=last.adapter,
        digest=found.digest,
        status=AdapterVersion.Status.VALIDATING,
        created_by=user,
        is_loaded=True,
        size_bytes=found.facts["size_bytes"],
        **values,
    )
    store.send(token, found.digest)
    with alone():
        store.keep(token, found.digest)
        try:
            with transaction.atomic():
                version.save(force_insert=True)
        except IntegrityError:
            return None
    if version.examples:
        embeddings.keep(version)
    return version
