"""What the site knows of an upload once it has looked at it, before a worker has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loraland.bases import Base


@dataclass(frozen=True)
class Examined:
    """With any `reasons` the rest is empty; `base` is the served one that takes the files, None where they are for
    another."""

    reasons: list[str]
    base: Base | None = None
    digest: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """The values of an `AdapterVersion` that are read from the files."""
    files: str | None = None
    """Under what they are stored, where that is not the digest; empty for none."""

    @property
    def stored_as(self) -> str:
        return self.digest if self.files is None else self.files
