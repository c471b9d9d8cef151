"""Several adapters as one whose parts a gate weighs for each row: their pairs side by side, and each target's gate.

Unlike in a sum nothing is multiplied beforehand, so the coefficients may depend on the row. A part must be a plain LoRA
on the linears of layers: a DoRA's scale is for its own update alone, and of biases and tables no gate says how much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from inference.adapters.alignment import aligned
from inference.adapters.file import AdapterRefused, HostAdapter
from inference.adapters.gate import MAX_GATED, Gate
from inference.adapters.gating import Part, gates_of, shape_of
from inference.adapters.identity import blended_digest
from inference.adapters.packed_lora import unpack
from inference.adapters.stored_gate import StoredGate
from inference.adapters.weights import TargetWeights, num_bytes, padded
from inference.model.architecture import TARGETS
from inference.wire.protocol import GateRef


def blend(
    digest: str, weighted: list[tuple[HostAdapter, float]], ref: GateRef, stored: StoredGate | None, max_rank: int
) -> HostAdapter:
    """The blend of `weighted`, whose weights are 1, by the gate `ref`, of which `stored` are the tensors, with the
    identity `digest`.

    Raises `AdapterRefused` for parts that no gate can weigh, and a gate that is not made for them.
    """
    parts = [part for part, _ in weighted]
    if any(weight != 1 for _, weight in weighted) or not parts:
        raise AdapterRefused(["a gate weighs one adapter or more, each of which comes with the weight 1"])
    rank = sum(aligned(part.rank) for part in parts)
    if reasons := [*_misfits(parts), *_mistakes(digest, parts, ref, stored), *_excess(len(parts), rank, max_rank)]:
        raise AdapterRefused(reasons)
    targets = sorted({target for part in parts for target in part.weights})
    pairs = {target: [_part(part, target) for part in parts] for target in targets}
    gates = gates_of(pairs, ref, stored)
    weights = {target: _side_by_side(pairs[target], gates[target]) for target in targets}
    return HostAdapter(digest, weights, rank, num_bytes(weights))


def _misfits(parts: list[HostAdapter]) -> Iterable[str]:
    for part in parts:
        pairs = part.weights.values()
        if any(pair.scale is not None for pair in pairs):
            yield f"{part.digest[:12]} is a DoRA, whose scale depends on its own update alone, so no gate can weigh it"
        elif part.is_activated:
            yield f"{part.digest[:12]} is an aLoRA, active from its invocation on alone, so no gate can weigh it"
        elif any(pair.bias is not None for pair in pairs):
            yield f"{part.digest[:12]} has biases, which no gate weighs; add it to others in a sum"
        elif tables := sorted(set(part.weights) - set(TARGETS)):
            yield f"{part.digest[:12]} changes {', '.join(tables)}; a gate weighs what adapters do to linears of layers"


def _mistakes(digest: str, parts: list[HostAdapter], ref: GateRef, stored: StoredGate | None) -> Iterable[str]:
    digests = [part.digest for part in parts]
    if digest != blended_digest(digests, ref.kind, ref.top_k, ref.temperature, ref.digest):
        yield f"{digest[:12]} is not the identity of these adapters and this gate"
    if (stored is None) != (ref.kind == "arrow"):
        yield f"a gate of the kind {ref.kind} {'comes with' if stored is None else 'has no'} tensors of its own"
    elif stored:
        yield from stored.mistakes(digests, ref)
    if not (ref.top_k >= 0 and math.isfinite(ref.temperature) and ref.temperature > 0):
        yield f"top_k is {ref.top_k} and temperature {ref.temperature:g}; the one is 0 or more, the other above 0"


def _excess(count: int, rank: int, max_rank: int) -> Iterable[str]:
    if count > MAX_GATED:
        yield f"{count} adapters are blended; a gate weighs at most {MAX_GATED}"
    if rank > max_rank:
        yield f"the ranks of the adapters add up to {rank}, above {max_rank}, the most that is served"


def _part(adapter: HostAdapter, target: str) -> Part | None:
    if target not in adapter.weights:
        return None
    pair = unpack(adapter.weights[target])
    return Part(pair.a[:, :, : adapter.rank], pair.b[:, : adapter.rank])


def _side_by_side(parts: list[Part | None], gate: Gate) -> TargetWeights:
    """The parts one behind the other, each from where the gate has it begin, in ranks padded with zeros."""
    rank = padded(gate.ends[-1])
    (layers, into, out), like = shape_of(parts), next(part.a for part in parts if part is not None)
    a, b = like.new_zeros(layers, into, rank), like.new_zeros(layers, rank, out)
    for part, start in zip(parts, (0, *gate.ends), strict=False):
        if part is not None:
            ranks = slice(start, start + part.a.shape[2])
            a[:, :, ranks], b[:, ranks] = part.a, part.b
    return TargetWeights(a, b, gate=gate)
