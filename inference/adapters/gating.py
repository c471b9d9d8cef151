"""The gates of a blend's targets, out of what the parts are (Arrow) or of what was trained (LoRA-Flow, RAMoLE)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from inference.adapters.alignment import aligned
from inference.adapters.file import AdapterRefused
from inference.adapters.gate import Gate
from inference.adapters.prototypes import prototypes
from inference.adapters.stored_gate import StoredGate
from inference.adapters.weights import padded
from inference.wire.protocol import GateRef


@dataclass(frozen=True)
class Part:
    """A part's matrices for one target, without padding: `a` [layers, in, rank] and `b` [layers, rank, out]."""

    a: Tensor
    b: Tensor


Pairs = dict[str, list[Part | None]]
"""By target what each part does to it, None where that is nothing."""


def gates_of(pairs: Pairs, ref: GateRef, stored: StoredGate | None) -> dict[str, Gate]:
    """The gate of each target. Raises `AdapterRefused` where `stored` has none for one, or one of another shape."""
    ends = {target: ends_of(parts) for target, parts in pairs.items()}
    if stored is None:
        return {target: _arrow(parts, ends[target], ref) for target, parts in pairs.items()}
    misfits = (stored.misfits(target, len(parts), shape_of(parts)) for target, parts in pairs.items())
    if found := list(dict.fromkeys(chain.from_iterable(misfits))):
        raise AdapterRefused(found)
    if stored.kind == "ramole":
        return {target: _ramole(target, parts, ends[target], stored) for target, parts in pairs.items()}
    flow = Gate(
        "flow", (), _columns(stored.stacked("weight")), None, stored.stacked("bias"), stored.top_k, stored.temperature
    )
    return {target: replace(flow, ends=own) for target, own in ends.items()}


def ends_of(parts: list[Part | None]) -> tuple[int, ...]:
    """The rank at which each part ends."""
    widths = [0 if part is None else aligned(part.a.shape[2]) for part in parts]
    return tuple(sum(widths[: at + 1]) for at in range(len(widths)))


def shape_of(parts: list[Part | None]) -> tuple[int, int, int]:
    """Layers and features in and out of a target, which one part has at least."""
    part = next(part for part in parts if part is not None)
    return len(part.a), part.a.shape[1], part.b.shape[2]


def _arrow(parts: list[Part | None], ends: tuple[int, ...], ref: GateRef) -> Gate:
    none = torch.zeros(shape_of(parts)[:2], dtype=torch.float32)
    found = [none if part is None else prototypes(part.a, part.b) for part in parts]
    return Gate("arrow", ends, _columns(torch.stack(found, dim=1)), top_k=ref.top_k, temperature=ref.temperature)


def _ramole(target: str, parts: list[Part | None], ends: tuple[int, ...], stored: StoredGate) -> Gate:
    """A part's key of an input is its own update times B_r: `b` @ B_r is worked out once, and `rows @ a` is enough."""
    queries, outputs = stored.stacked(f"{target}.A_r"), stored.stacked(f"{target}.B_r").double()
    layers, g, _ = queries.shape
    keys = torch.zeros(layers, g, padded(ends[-1]))
    for part, start in zip(parts, (0, *ends), strict=False):
        if part is not None:
            keys[:, :, start : start + part.b.shape[1]] = (part.b.double() @ outputs).mT.float()
    temperature = stored.temperature * math.sqrt(g)
    return Gate("ramole", ends, _columns(queries), keys, top_k=stored.top_k, temperature=temperature)


def _columns(rows: Tensor) -> Tensor:
    """[layers, columns, in] as a gate has it, each column in one piece of memory."""
    return rows.contiguous().transpose(1, 2)
