"""Which versions a blend is to be of: by their names, or by the digests that a gate was trained for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loraland.catalogue.composition import MAX_PARTS
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.versions import is_draft
from loraland.refusal import Refused


class PartsMissing(ValueError):
    """Parts that no blend can have; `reasons` are sentences."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = reasons


def of_names(names: Sequence[str]) -> list[AdapterVersion]:
    """The versions that are called so, with their adapters. Raises `PartsMissing`."""
    if not 2 <= len(names) <= MAX_PARTS:
        raise PartsMissing([f"{len(names) or 'No'} parts are named; a blend is of 2 to {MAX_PARTS} adapters."])
    versions, reasons = list[AdapterVersion](), list[str]()
    for name in names:
        try:
            versions.append(AdapterVersion.objects.exclude(is_draft()).served().named(name))
        except Refused as refusal:
            reasons.append(refusal.sentence)
    if reasons:
        raise PartsMissing(reasons)
    return versions


def of_digests(digests: Iterable[str]) -> list[AdapterVersion]:
    """The versions that have these digests, each the one that is shown if there are several. Raises `PartsMissing`."""
    found = {digest: _of_digest(digest) for digest in digests}
    if missing := [digest for digest, version in found.items() if version is None]:
        raise PartsMissing([_missing(digest) for digest in missing])
    return [version for version in found.values() if version]


def _of_digest(digest: str) -> AdapterVersion | None:
    versions = AdapterVersion.objects.filter(digest=digest).answering().served().exclude(is_draft())
    found = versions.select_related("adapter__published").order_by("-published_at", "pk")
    return min(found, key=lambda version: version.adapter.published_id != version.pk, default=None)


def _missing(digest: str) -> str:
    version = AdapterVersion.objects.filter(digest=digest).select_related("adapter").first()
    if version is None:
        return f"No adapter here has the digest {digest}, which the gate was trained for; upload that adapter first."
    if version.is_draft:
        return f"{version}, which the gate was trained for, was never published; publish it: a blend tells its parts."
    return f"{version}, which the gate was trained for, is {version.get_status_display()} and does not answer."
