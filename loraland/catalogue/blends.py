"""The parts of registered blends as rows: which versions a blend is of, and which files it needs.

A blend is a version of an adapter like any other. Its weights are those of its parts, which it names by their digests,
and a gate's, unless that follows from the parts; it has no files under its own digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.db import models

from inference.wire.protocol import GateRef
from loraland.catalogue import store
from loraland.catalogue.status import WITHOUT_FILES

if TYPE_CHECKING:
    from loraland.catalogue.models import Adapter, AdapterVersion

NAMES: Final = {"arrow": "Arrow", "flow": "LoRA-Flow", "ramole": "RAMoLE"}
"""What people call the kinds of gates."""


class BlendPart(models.Model):
    """One of the versions that answer together in a blend. It cannot be deleted while the blend is there."""

    blend = models.ForeignKey("catalogue.AdapterVersion", on_delete=models.CASCADE, related_name="blend_parts")
    part = models.ForeignKey("catalogue.AdapterVersion", on_delete=models.PROTECT, related_name="in_blends")
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["blend", "position"], name="one_part_per_position")]

    def __str__(self) -> str:
        return f"{self.part} in {self.blend.adapter.slug} ({self.blend.adapter.name})"


def gate_of(version: AdapterVersion) -> GateRef | None:
    """What weighs the parts of `version`; None where it is no blend."""
    return GateRef(**version.gate) if version.gate else None


def parts_of(version: AdapterVersion) -> list[AdapterVersion]:
    """The versions that answer together in `version`, in order and with their adapters; none for a plain adapter."""
    rows = version.blend_parts.select_related("part__adapter") if version.gate else ()
    return [row.part for row in rows]


def blends_with(version: AdapterVersion) -> models.QuerySet[AdapterVersion]:
    """The blends, with their adapters, of which `version` is a part and which still need its files."""
    blends: models.QuerySet[AdapterVersion] = type(version)._default_manager.filter(blend_parts__part=version)
    return blends.exclude(status__in=WITHOUT_FILES).select_related("adapter").order_by("adapter__slug", "-created")


def shown_blends_with(adapter: Adapter) -> models.QuerySet[AdapterVersion]:
    """The published blends of which a version of `adapter` is a part."""
    versions: models.QuerySet[AdapterVersion] = adapter.versions.model._default_manager.select_related("adapter")
    shown = versions.filter(pk=models.F("adapter__published"), blend_parts__part__adapter=adapter)
    return shown.order_by("adapter__name").distinct()


def own_files(version: AdapterVersion) -> str:
    """The digest under which what came with `version` is stored: its weights, or a blend's gate. Empty for none."""
    return version.gate["digest"] if version.gate else version.digest


def has_files(version: AdapterVersion) -> bool:
    """Whether all that `version` is computed from is stored."""
    digests = [own_files(version), *(part["digest"] for part in version.components)]
    return bool(version.digest) and all(store.is_kept(digest) for digest in filter(None, digests))


def is_needed(digest: str, versions: models.QuerySet[AdapterVersion]) -> bool:
    """Whether one of `versions` that has files is computed from those of `digest`."""
    own = models.Q(digest=digest) | models.Q(gate__digest=digest)
    of_parts = models.Q(blend_parts__part__digest=digest)
    return versions.exclude(status__in=WITHOUT_FILES).filter(own | of_parts).exists()


def as_values(gate: GateRef) -> dict[str, Any]:
    """`gate` as a row keeps it."""
    return {"kind": gate.kind, "top_k": gate.top_k, "temperature": gate.temperature, "digest": gate.digest}
