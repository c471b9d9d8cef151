"""The index of a process, made anew when the catalogue's stamp has changed."""

from __future__ import annotations

from threading import Lock
from typing import Final

from inference.tasks.embedding import EMBEDDER
from loraland.catalogue.embeddings import InputEmbedding, stamp
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.routing.index import Candidate, Index


class KnownAdapters:
    """The published adapters that answer, of the bases that are served: every visitor may use these, and no others are
    looked at."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._stamp: str | None = None
        self._index = Index([], [])

    def index(self) -> Index:
        """The index as it is to be now."""
        now = stamp()
        with self._lock:
            if now != self._stamp or not now:
                self._index, self._stamp = self._made(), now
            return self._index

    def _made(self) -> Index:
        versions = AdapterVersion.objects.shown().served().answering().filter(embedding__embedder=EMBEDDER)
        found = list(versions.exclude(template="").select_related("adapter").defer("examples", "training", "config"))
        rows = {row.version_id: row.value for row in InputEmbedding.objects.filter(embedder=EMBEDDER).iterator()}
        kept = [version for version in found if version.fields and version.pk in rows and rows[version.pk].is_usable]
        return Index(list(map(_candidate, kept)), [rows[version.pk] for version in kept])


def _candidate(version: AdapterVersion) -> Candidate:
    adapter = version.adapter
    return Candidate(
        adapter.slug, adapter.name, version.digest, adapter.served_base.key, version.template, version.field_names
    )


known: Final = KnownAdapters()
