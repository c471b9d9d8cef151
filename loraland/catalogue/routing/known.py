"""The index of a process, made anew when the catalogue's stamp has changed."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, Final

from inference.tasks.embedding import EMBEDDER, Embedding
from loraland import bases
from loraland.catalogue.embeddings import stamp
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
        """Read as plain columns: as models, thousands take ten times as long."""
        versions = AdapterVersion.objects.shown().served().answering().filter(embedding__embedder=EMBEDDER)
        rows = versions.exclude(template="").values_list(*_COLUMNS)
        found = [(_candidate(row), Embedding(EMBEDDER, row[-2], bytes(row[-1]))) for row in rows if row[5]]
        kept = [(candidate, embedding) for candidate, embedding in found if embedding.is_usable]
        return Index([candidate for candidate, _ in kept], [embedding for _, embedding in kept])


_COLUMNS: Final = (
    *("adapter__slug", "adapter__name", "digest", "adapter__base", "template", "fields"),
    *("embedding__texts", "embedding__numbers"),
)


def _candidate(row: Sequence[Any]) -> Candidate:
    slug, name, digest, base, template, fields, *_ = row
    key = (bases.of_name(base) or bases.default()).key
    return Candidate(slug, name, digest, key, template, tuple(field["name"] for field in fields))


known: Final = KnownAdapters()
