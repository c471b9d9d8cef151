"""A blend as somebody asked for it: of a gate's file or Arrow's settings, and of parts by their names or by the digests
that a gate was trained for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from inference.wire.protocol import GateRef
from loraland.catalogue import store
from loraland.catalogue.composition import MAX_PARTS, Composition, base_of
from loraland.catalogue.gate_names import TOP_K
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload.blending import Gated
from loraland.catalogue.versions import is_draft
from loraland.refusal import Refused

About = Literal["gate_file", "parts", "top_k", "temperature"]
"""The field of a form, or the option of a command, that is at fault."""


class BlendRefused(ValueError):
    """What cannot be blended: the `reasons` are sentences `about` one thing that was given."""

    def __init__(self, about: About, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons))
        self.about, self.reasons = about, reasons


def assembled(
    gate: Gated | None, names: Sequence[str], top_k: int | None = None, temperature: float | None = None
) -> Composition:
    """The parts called `names`, or those that `gate` names, weighed by it; without a gate by Arrow. Raises
    `BlendRefused`."""
    if gate and gate.reasons:
        raise BlendRefused("gate_file", gate.reasons)
    versions = _versions(gate, names)
    ref = _trained(gate, top_k, temperature) if gate else _arrow(len(versions), top_k, temperature)
    blend = Composition(tuple((version, 1.0) for version in versions), ref)
    if blend.problem:
        raise BlendRefused("parts", [blend.problem])
    if gate and (misfits := gate.misfits(versions, base_of(blend))):
        raise BlendRefused("gate_file", misfits)
    return blend


def _arrow(count: int, top_k: int | None, temperature: float | None) -> GateRef:
    """With as many digits as its name has, by which anybody could ask for the same."""
    warmth = 1.0 if temperature is None else round(temperature, 6)
    if not 0 < warmth < 1000:
        raise BlendRefused("temperature", [f"The temperature is {temperature:g}; write one from 0.000001 to 999."])
    return GateRef("arrow", min(top_k or TOP_K, count), warmth)


def _trained(gate: Gated, top_k: int | None, temperature: float | None) -> GateRef:
    given: dict[About, float | None] = {"top_k": top_k, "temperature": temperature}
    for name, value in given.items():
        if value is not None:
            raise BlendRefused(name, [f"Leave this empty: {store.GATE} has its own settings, and they hold."])
    return gate.ref


def _versions(gate: Gated | None, names: Sequence[str]) -> list[AdapterVersion]:
    """The parts that a gate's file names, else those that are called `names`."""
    if gate is None or gate.head is None or not gate.head.parts:
        return _of_names(names)
    if names:
        told = f"{store.GATE} names its {len(gate.head.parts)} parts by itself; leave them out here."
        raise BlendRefused("parts", [told])
    return _of_digests(gate.head.parts)


def _of_names(names: Sequence[str]) -> list[AdapterVersion]:
    """The versions that are called so, with their adapters."""
    if not 2 <= len(names) <= MAX_PARTS:
        told = "1 part is" if len(names) == 1 else f"{len(names) or 'No'} parts are"
        raise BlendRefused("parts", [f"{told} named; a blend is of 2 to {MAX_PARTS} adapters."])
    versions, reasons = list[AdapterVersion](), list[str]()
    for name in names:
        try:
            versions.append(AdapterVersion.objects.exclude(is_draft()).served().named(name))
        except Refused as refusal:
            reasons.append(refusal.sentence)
    if reasons:
        raise BlendRefused("parts", reasons)
    return versions


def _of_digests(digests: Iterable[str]) -> list[AdapterVersion]:
    """The versions that have these digests, each the one that is shown if there are several."""
    found = {digest: _of_digest(digest) for digest in digests}
    if missing := [digest for digest, version in found.items() if version is None]:
        raise BlendRefused("parts", [_missing(digest) for digest in missing])
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
