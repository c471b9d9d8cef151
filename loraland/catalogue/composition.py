"""Who is meant by a name: the base, one version of an adapter, or several that answer together: added up, each with a
weight, or in a blend, of which a gate weighs each for every token."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from inference.adapters.alignment import aligned
from inference.adapters.identity import blended_digest, composed_digest
from inference.wire.protocol import AdapterRef, Component, GateRef
from loraland import bases
from loraland.base_files import tokenizer_of
from loraland.bases import BASE, Base
from loraland.catalogue.beyond import beyond_pairs
from loraland.catalogue.gate_names import parted, spelled
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.slug import STAND_INS, is_bases_own
from loraland.catalogue.versions import AdapterVersionQuerySet
from loraland.refusal import Refused

if TYPE_CHECKING:
    from inference.model.tokenizer import Tokenizer

MAX_PARTS: Final = 8
MAX_WEIGHT: Final = 100.0
_WEIGHT: Final = re.compile(r"-?\d{1,3}(\.\d{1,6})?", re.ASCII)


@dataclass(frozen=True)
class Composition:
    """A weighted sum of versions, which come with their adapters, or with a `gate` their blend. The first one's prompt
    is used."""

    parts: tuple[tuple[AdapterVersion, float], ...]
    gate: GateRef | None = None

    def __str__(self) -> str:
        if self.gate:
            return f"{spelled(self.gate)}({'+'.join(map(str, self.versions))})"
        return sum_of((weight, str(version)) for version, weight in self.parts)

    @cached_property
    def digest(self) -> str:
        if gate := self.gate:
            digests = (version.digest for version in self.versions)
            return blended_digest(digests, gate.kind, gate.top_k, gate.temperature, gate.digest)
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
        return sum(aligned(version.rank) if self.gate else version.rank for version in self.versions)

    @property
    def ref(self) -> AdapterRef:
        components = tuple(Component(version.digest, weight) for version, weight in self.parts)
        return AdapterRef(self.digest, self.template, self.field_names, components, self.gate)

    @property
    def components(self) -> list[dict[str, Any]]:
        """What an answer keeps of it, as plain values."""
        gate = {"gate": spelled(self.gate)} if self.gate else {}
        return [
            {"model": str(version), "digest": version.digest, "weight": weight, **gate}
            for version, weight in self.parts
        ]

    @property
    def problem(self) -> str:
        """Why these cannot answer together, in a sentence; empty when they can."""
        if len({version.digest for version in self.versions}) < len(self.parts):
            return "An adapter is named twice; name it once" + ("." if self.gate else ", with the sum of its weights.")
        for version, weight in self.parts:
            if version.gate:
                return f"{version} is a blend itself; name its parts instead, {_listed(version.components)}."
            if self.gate and (beyond := beyond_pairs(version.digest)):
                return f"{version} changes {beyond}; a gate weighs what adapters do to the linears of layers alone."
            if not (math.isfinite(weight) and 0 < abs(weight) <= MAX_WEIGHT):
                return f"The weight of {version} is {weight:g}; it must not be 0, nor beyond {MAX_WEIGHT:g}."
            if version.config.get("use_dora"):
                return f"{version} is a DoRA, which cannot be added to others: its scale is for its own update alone."
            if version.invocation:
                return f"{version} is an aLoRA, which cannot be added to others: it is not active from the start."
        if len({base_of(version) for version in self.versions}) > 1:
            return "Adapters of different bases cannot be added up; name some of one base."
        if self.rank > (most := base_of(self).max_rank):
            return f"The ranks of these adapters add up to {self.rank}; at most {most} is served."
        return ""


def _listed(components: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(part["model"] for part in components)


def base_of(version: AdapterVersion | Composition | None, name: str = BASE) -> Base:
    """The base that answers with `version`; without one that of `name`, by which somebody asked."""
    if isinstance(version, Composition):
        return base_of(version.versions[0])
    return version.adapter.served_base if version else bases.spoken(bases.without_auto(name)) or bases.default()


def tokenizer_for(version: AdapterVersion | Composition | None, base: Base) -> Tokenizer:
    """By what the workers of `base` read what is sent to `version`. Raises `Refused` where it is not here."""
    first = version.versions[0] if isinstance(version, Composition) else version
    return tokenizer_of(base, first.config if first else {})


def named(name: str, versions: AdapterVersionQuerySet) -> AdapterVersion | Composition | None:
    """What `name` means among `versions`: ``base``, a name of `AdapterVersion.objects.named`, or a weighted sum of
    such as ``slug+0.5*other@digest-prefix``, or their blend as ``arrow:2(slug+other)``. None is a base, of which
    `base_of` tells: ``base:`` and a name, or its own name, or the default one for what clients send where nobody named
    a model, unless an adapter is called so. Raises `Refused`.
    """
    if bases.is_bare(name):
        base_called(name)
        return None
    try:
        return _specialist(name, versions)
    except Refused:
        is_taken = name in STAND_INS and AdapterVersion.objects.filter(adapter__slug=name).exists()
        if is_bases_own(name) or (name in STAND_INS and not is_taken):
            return None
        raise


def base_called(name: str) -> Base:
    """The base that `name` means, which is written as that of one. Raises `Refused` with those that there are."""
    if (base := bases.spoken(name)) is None:
        there = ", ".join(f"{base.called} ({base.name})" if base.is_default else base.called for base in bases.served())
        raise Refused("model_not_found", f"No base called {name[:160]!r} is served; there is {there}.", param="model")
    return base


def _specialist(name: str, versions: AdapterVersionQuerySet) -> AdapterVersion | Composition:
    if gated := parted(name):
        return _blend(*gated, versions)
    terms = [_term(term) for term in name.split("+")]
    if len(terms) > MAX_PARTS:
        raise _meaningless(f"{len(terms)} adapters are added up; name at most {MAX_PARTS}.")
    if any(bases.is_bare(of) for of, _ in terms):
        raise _meaningless("The base is part of every answer and has no weight; add adapters only.")
    parts = tuple((versions.named(of), weight) for of, weight in terms)
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    return _sensible(Composition(parts))


def _blend(gate: GateRef, inside: str, versions: AdapterVersionQuerySet) -> Composition:
    names = inside.split("+")
    if len(names) > MAX_PARTS or any("*" in each or bases.is_bare(each) for each in names):
        sentence = (
            f"arrow weighs up to {MAX_PARTS} adapters by itself; name them without weights, and without the base."
        )
        raise _meaningless(sentence)
    parts = tuple((versions.named(each), 1.0) for each in names)
    return _sensible(Composition(parts, replace(gate, top_k=min(gate.top_k, len(parts)))))


def _sensible(composition: Composition) -> Composition:
    if composition.problem:
        raise _meaningless(composition.problem)
    return composition


def recorded_name(components: Sequence[Mapping[str, Any]]) -> str:
    """The name of what `components` tells of."""
    models = [part["model"] for part in components]
    if gate := components[0].get("gate"):
        return f"{gate}({'+'.join(models)})"
    return sum_of((part["weight"], part["model"]) for part in components)


def sum_of(terms: Iterable[tuple[float, str]]) -> str:
    """The name of a sum, of weights and names, as `named` reads it."""
    return "+".join(f"{weight:.6f}".rstrip("0").rstrip(".") + f"*{name}" for weight, name in terms)


def _term(text: str) -> tuple[str, float]:
    """A name and its weight, 1 where there is none before a star."""
    before, star, name = text.partition("*")
    if star and not _WEIGHT.fullmatch(before):
        raise _meaningless(f"{before[:40]!r} is no weight; write a number such as 0.5 or -1 before the *.")
    return (name, float(before)) if star else (text, 1.0)


def _meaningless(sentence: str) -> Refused:
    return Refused("invalid_model", sentence, param="model")
