"""Several adapters that answer together, each with a weight: their versions, and why they could not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from django.conf import settings

from inference.adapters.identity import composed_digest
from inference.wire.protocol import AdapterRef, Component
from loraland.catalogue.models import AdapterVersion

MAX_PARTS: Final = 8
MAX_WEIGHT: Final = 100.0


@dataclass(frozen=True)
class Composition:
    """A weighted sum of versions, which come with their adapters. The first one's prompt is used."""

    parts: tuple[tuple[AdapterVersion, float], ...]

    def __str__(self) -> str:
        return "+".join(f"{weight:g}*{version}" for version, weight in self.parts)

    @cached_property
    def digest(self) -> str:
        return composed_digest((version.digest, weight) for version, weight in self.parts)

    @property
    def versions(self) -> tuple[AdapterVersion, ...]:
        return tuple(version for version, _ in self.parts)

    @property
    def template(self) -> str:
        return self.versions[0].template

    @property
    def field_names(self) -> tuple[str, ...]:
        return self.versions[0].field_names

    @property
    def rank(self) -> int:
        return sum(version.rank for version in self.versions)

    @property
    def ref(self) -> AdapterRef:
        components = tuple(Component(version.digest, weight) for version, weight in self.parts)
        return AdapterRef(self.digest, self.template, self.field_names, components)

    @property
    def record(self) -> list[dict[str, Any]]:
        """What an answer keeps of it, as plain values."""
        return [{"model": str(version), "digest": version.digest, "weight": weight} for version, weight in self.parts]

    @property
    def problem(self) -> str:
        """Why these cannot answer together, in a sentence; empty when they can."""
        if len(self.parts) > MAX_PARTS:
            return f"{len(self.parts)} adapters are added up; name at most {MAX_PARTS}."
        if len({version.digest for version in self.versions}) < len(self.parts):
            return "An adapter is named twice; name it once, with the sum of its weights."
        for version, weight in self.parts:
            if not (math.isfinite(weight) and 0 < abs(weight) <= MAX_WEIGHT):
                return f"The weight of {version} is {weight:g}; it must not be 0, nor beyond {MAX_WEIGHT:g}."
            if version.config.get("use_dora"):
                return f"{version} is a DoRA, which cannot be added to others: its scale is for its own update alone."
        if self.rank > settings.MAX_RANK:
            return f"The ranks of these adapters add up to {self.rank}; at most {settings.MAX_RANK} is served."
        return ""
