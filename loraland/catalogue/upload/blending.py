"""The examination of a blend without torch: its parts as the catalogue has them, and its gate's file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from inference.adapters.finite import non_finite
from inference.adapters.gate_head import GateHead, GateRefused, gate_digest_of, read_head
from inference.adapters.named_base import KEY as NAMED
from inference.model import added_tokens
from inference.model.architecture import TARGETS, Architecture
from inference.reading import reading
from inference.wire.protocol import GateRef
from loraland.bases import Base
from loraland.catalogue import blends, store
from loraland.catalogue.composition import Composition, base_of
from loraland.catalogue.gate_words import TEMPERATURE, TOP_K
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload.bases import architecture_of
from loraland.catalogue.upload.examined import Examined

GONE: Final = "The uploaded files are gone; upload them again."


class Gated:
    """The gate in a file: what it says, its digest and what is wrong with it by itself. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.head: GateHead | None = None
        self.digest, self.num_bytes = "", path.stat().st_size
        self.reasons: list[str] = []
        try:
            with reading(path.name, lambda reason: GateRefused([reason])):
                self._read(path)
        except GateRefused as error:
            self.reasons = [f"{store.GATE} is no gate that is read: {reason}." for reason in error.reasons]

    def _read(self, path: Path) -> None:
        head, header = read_head(path)
        damaged = [f"{name} holds NaN or infinity" for name in non_finite(path, header)]
        if faults := [*head.faults(), *damaged]:
            raise GateRefused(faults)
        self.head, self.digest = head, gate_digest_of(path, head, header)

    @property
    def ref(self) -> GateRef:
        """How a blend asks for it: its own settings hold."""
        assert self.head is not None
        return GateRef(self.head.kind, digest=self.digest)

    def misfits(self, parts: Sequence[AdapterVersion], base: Base) -> list[str]:
        """Why it cannot weigh `parts` on `base`, as far as that is known here."""
        assert self.head is not None
        found = list(self.head.mistakes([part.digest for part in parts], self.ref))
        if (architecture := architecture_of(base)) and not found:
            found = [*dict.fromkeys(_misfits(self.head, parts, architecture))]
        return [f"{store.GATE} does not fit: {reason}." for reason in found]


def _misfits(head: GateHead, parts: Sequence[AdapterVersion], architecture: Architecture) -> Iterable[str]:
    yield from head.faults(architecture.hidden_size)
    targets = {target for part in parts for target in part.target_modules} & {*TARGETS}
    for target in sorted(targets):
        shape = architecture.num_layers, *architecture.target_shape(target)
        yield from head.misfits(target, len(parts), shape)


def examine_blend(version: AdapterVersion) -> Examined:
    """Examine a blend: everything that is wrong with its parts, or with its gate for them. Raises OSError."""
    parts, ref = blends.parts_of(version), blends.gate_of(version)
    composition = Composition(tuple((part, 1.0) for part in parts), ref)
    base = base_of(composition) if all(part.adapter.is_served for part in parts) else None
    reasons = [
        f"The files of {part} are gone; upload them again, or leave it out."
        for part in parts
        if not store.is_kept(part.digest)
    ]
    if problem := composition.problem if base else "":
        reasons.append(problem)
    gate = _gate(version)
    if gate is None and ref and ref.digest:
        return Examined([*reasons, GONE])
    if gate and not gate.reasons and base and not reasons:
        reasons += gate.misfits(parts, base)
    if reasons := [*(gate.reasons if gate else []), *reasons]:
        return Examined(reasons)
    return Examined([], base, composition.digest, _facts(composition, gate), files=gate.digest if gate else "")


def _gate(version: AdapterVersion) -> Gated | None:
    """What the version came with; None where that is nothing, or gone."""
    digest = version.gate["digest"]
    if version.quarantine:
        return _gate_in(store.quarantined(version.quarantine))
    if not digest:
        return None
    with store.opened(digest) as directory:
        return _gate_in(directory)


def _gate_in(directory: Path) -> Gated | None:
    return Gated(directory / store.GATE) if (directory / store.GATE).exists() else None


def named_in(gate: Gated | None) -> dict[str, Any]:
    """The base that a gate's file names, as a config names one."""
    return {NAMED: gate.head.base} if gate and gate.head and gate.head.base else {}


def _facts(blend: Composition, gate: Gated | None) -> dict[str, Any]:
    head = gate.head if gate else None
    tokens = blend.versions[0].config.get(added_tokens.KEY)
    own = {TOP_K: head.top_k, TEMPERATURE: head.temperature} if head else {}
    return {
        "config": named_in(gate) | ({added_tokens.KEY: tokens} if tokens else {}) | own,
        "remarks": [],
        "rank": blend.rank,
        "target_modules": sorted({target for part in blend.versions for target in part.target_modules}),
        "num_parameters": head.num_parameters if head else 0,
        "size_bytes": gate.num_bytes if gate else 0,
    }
