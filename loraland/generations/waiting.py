"""Which adapters are waited for: those of answers that are not finished."""

from __future__ import annotations

from collections.abc import Iterable

from loraland.generations.models import Generation


def digests_waited_for() -> frozenset[str]:
    """The digests of all versions of which an answer is under way, those of sums among them."""
    running = Generation.objects.unfinished()
    single = running.exclude(adapter_version=None).values_list("adapter_version__digest", flat=True)
    sums: Iterable[list[dict[str, str]]] = running.exclude(components=[]).values_list("components", flat=True)
    return frozenset([*single, *(part["digest"] for parts in sums for part in parts)])
