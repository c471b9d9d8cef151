"""The several adapters that fit best, added up with equal weights: LoraRetriever's mixture (arXiv 2402.09997).

The nearest one's prompt is filled, and the sum is exactly what its name means. An adapter that cannot be added to
those before it is passed over, and the next one taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loraland.catalogue.composition import Composition
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.routing.choice import RUNNERS_UP, Choice, told
from loraland.catalogue.routing.index import Scored
from loraland.refusal import Refused


@dataclass(frozen=True)
class Part:
    """An adapter that is added up, and the `inputs` with which its own prompt would be filled."""

    scored: Scored
    version: AdapterVersion
    inputs: dict[str, str]


@dataclass(frozen=True)
class Mixture:
    """The `parts` that are added up, each with a weight of one over their number, what was `passed_over` with a
    sentence why, and who else was near."""

    parts: tuple[Part, ...]
    passed_over: tuple[tuple[Scored, str], ...]
    runners_up: tuple[Scored, ...]

    @property
    def weight(self) -> float:
        """With as many digits as a name has, so that the name says it whole."""
        return round(1 / len(self.parts), 6)

    @property
    def name(self) -> str:
        """What answers, by the name that anybody could have asked for: one part is itself."""
        return str(self._sum) if len(self.parts) > 1 else self.parts[0].scored.candidate.slug

    @property
    def told(self) -> dict[str, Any]:
        """What an answer says of it, as `Choice.told` says it of one adapter."""
        return {
            "adapter": self.name,
            "digest": self._sum.digest if len(self.parts) > 1 else self.parts[0].version.digest,
            "score": told(self.parts[0].scored)["score"],
            "parts": [told(part.scored) | {"weight": self.weight} for part in self.parts],
            "passed_over": [told(scored) | {"why": why} for scored, why in self.passed_over],
            "runners_up": list(map(told, self.runners_up)),
            "reason": "",
        }

    @property
    def _sum(self) -> Composition:
        return _sum_of(self.parts, self.weight)


def mixed(choice: Choice, count: int) -> Mixture:
    """The `count` best of `choice`, which has chosen an adapter and has some runners-up, that can be added
    up; the nearest alone where none can. Raises `Refused` where all are gone since they were chosen."""
    assert choice.chosen is not None, "an adapter is chosen"
    fillings = dict(zip([choice.chosen, *choice.runners_up], [choice.inputs, *choice.fillings], strict=True))
    versions = _versions(list(fillings))
    parts: list[Part] = []
    passed_over: list[tuple[Scored, str]] = []
    others: list[Scored] = []
    for scored in filter(lambda each: each.candidate.slug in versions, fillings):
        part = Part(scored, versions[scored.candidate.slug], fillings[scored])
        if len(parts) == count:
            others.append(scored)
        elif why := _sum_of([*parts, part], 1.0).problem:
            passed_over.append((scored, why))
        else:
            parts.append(part)
    if not parts and passed_over:
        scored, _ = passed_over.pop(0)
        parts = [Part(scored, versions[scored.candidate.slug], fillings[scored])]
    if not parts:
        raise Refused("model_not_found", "The adapters that fit have just been retired; ask again.", param="model")
    return Mixture(tuple(parts), tuple(passed_over), tuple(others[:RUNNERS_UP]))


def _sum_of(parts: Sequence[Part], weight: float) -> Composition:
    return Composition(tuple((part.version, weight) for part in parts))


def _versions(found: Sequence[Scored]) -> dict[str, AdapterVersion]:
    slugs = [scored.candidate.slug for scored in found]
    versions = AdapterVersion.objects.shown().served().answering().filter(adapter__slug__in=slugs)
    return {version.adapter.slug: version for version in versions.select_related("adapter")}
