"""Adapters on their way to a GPU: packed into one piece of pinned memory by the thread that reads them, copied
into a slot on a stream of their own while others decode.

A slot is a row of `SlotTable`, which names addresses, so an adapter takes the memory of its own rank's bucket and
its own targets, wherever the allocator finds it, and a captured CUDA graph does not mind.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.adapters.gate import Gate
from inference.adapters.slots import Bank
from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.decoders.gpu.kernels.gate import record_of
from inference.decoders.gpu.kernels.slot_table import (
    INDEX,
    Pair,
    SlotTable,
    bucket,
    empty_table,
    entry,
    quantize,
    scales_of,
)
from inference.decoders.gpu.target_modules import TargetModules, target_modules
from inference.model.architecture import EMBEDDING
from inference.model.spec import NORMS

_ALIGNMENT: Final = 256


@dataclass(frozen=True)
class Place:
    """Where in an adapter's memory the parts of a `Pair` lie, in bytes, None for those it has not; its padded rank."""

    rank: int
    offsets: tuple[int | None, ...]


class PackedWeights(AdapterWeights):
    """An adapter as the kernels want it: one piece of `memory` uint8, and the `places` by column of the table.

    As a mapping it is the adapter still, so that it can be added to others. Its matrices are views of the memory,
    but in int8 they are those that it was packed from.
    """

    def __init__(self, weights: AdapterWeights, is_int8: bool = False, is_pinned: bool = False) -> None:
        pairs = {target: _pair(target, pair, is_int8) for target, pair in weights.items()}
        parts = [part for pair in pairs.values() for part in _parts(pair) if part is not None]
        self.memory = torch.zeros(sum(_num_bytes(part) for part in parts), dtype=torch.uint8, pin_memory=is_pinned)
        self.places: dict[int, Place] = {}
        self.looks_at_stream = any(pair.gate and pair.gate.kind == "flow" for pair in weights.values())
        super().__init__(weights)
        end = 0
        for target, pair in pairs.items():
            offsets: list[int | None] = []
            views: list[Tensor | None] = []
            for part in _parts(pair):
                offsets.append(None if part is None else end)
                views.append(None if part is None else self._place(part, end))
                end += 0 if part is None else _num_bytes(part)
            self.places[INDEX[target]] = Place(pair.rank, tuple(offsets))
            if not is_int8:
                self[target] = _view(target, weights[target], views)

    def _place(self, part: Tensor, start: int) -> Tensor:
        view = self.memory[start : start + part.nbytes].view(part.dtype).view(part.shape)
        return view.copy_(part)


def _pair(target: str, weights: TargetWeights, is_int8: bool) -> Pair:
    """`weights` in the layout of the kernels, ranks padded to their buckets, that of a bias alone too."""
    rank = 0 if target in NORMS else bucket(weights.rank)
    a = functional.pad(weights.a.transpose(1, 2), (0, 0, 0, rank - weights.rank))
    b = functional.pad(weights.b, (0, 0, 0, rank - weights.rank))
    rank_scales: Tensor | None = None
    gate = None if weights.gate is None else record_of(_scaled(weights.gate, a) if is_int8 else weights.gate)
    if is_int8:
        a, b, rank_scales = quantize(a, b)
    return Pair(a.transpose(1, 2) if target == EMBEDDING else a, b, rank_scales, _affine(target, weights), gate)


def _scaled(gate: Gate, a: Tensor) -> Gate:
    """A gate whose keys are for products with `a` [layers, rank, in] in int8, which are still to be scaled."""
    if gate.keys is None:
        return gate
    return replace(gate, keys=gate.keys * scales_of(a)[:, None, : gate.keys.shape[2], 0])


def _affine(target: str, weights: TargetWeights) -> Tensor | None:
    """Magnitudes and biases float32 [layers, 2, out], of a norm [layers, 1, out]; None where there are neither."""
    scale, bias = weights.scale, weights.bias
    if target in NORMS or (scale is None and bias is None):
        return None if bias is None else bias.unsqueeze(1)
    if scale is None or bias is None:
        known = torch.zeros(len(weights.b), weights.b.shape[2])
        scale, bias = known + 1 if scale is None else scale, known if bias is None else bias
    return torch.stack((scale, bias), dim=1)


def _view(target: str, weights: TargetWeights, parts: list[Tensor | None]) -> TargetWeights:
    a, b, _, affine, _ = parts
    assert a is not None, "a pair has an A"
    assert b is not None, "a pair has a B"
    scale = None if affine is None or weights.scale is None else affine[:, 0]
    bias = None if affine is None or weights.bias is None else affine[:, -1]
    return TargetWeights(a if target == EMBEDDING else a.transpose(1, 2), b, scale, bias, weights.gate)


def _parts(pair: Pair) -> tuple[Tensor | None, ...]:
    return pair.a, pair.b, pair.rank_scales, pair.affine, pair.gate


def _num_bytes(part: Tensor) -> int:
    return -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT


class SlotBank(Bank):
    """The memory of the adapters on `device` and the table by which the kernels find it.

    Every `put` is a copy on a stream of its own; `wait` makes a pass wait for the slots that it reads, and only
    for those.
    """

    def __init__(self, num_slots: int, max_rank: int, device: torch.device, is_int8: bool = False) -> None:
        self.device, self.is_int8 = device, is_int8
        self.table: SlotTable = empty_table(num_slots, max_rank, device, is_int8)
        self._memory: dict[int, Tensor] = {}
        self._targets: dict[int, TargetModules] = {}
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arrivals: dict[int, torch.cuda.Event] = {}

    def prepare(self, weights: AdapterWeights) -> PackedWeights:
        """`weights` in the layout of the device, in memory that it can copy from by itself."""
        return PackedWeights(weights, self.is_int8, is_pinned=self.device.type == "cuda")

    def put(self, slot: int, weights: AdapterWeights) -> None:
        """Begin to copy `weights` into `slot`."""
        packed = weights if isinstance(weights, PackedWeights) else self.prepare(weights)
        self._targets[slot] = target_modules(packed, any(pair.gate for pair in packed.values()))
        if self._copies is None:
            self._copy(slot, packed)
            return
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            self._copy(slot, packed)
            self._arrivals[slot] = self._copies.record_event()

    def clear(self, slot: int) -> None:
        self._memory.pop(slot, None)
        self._targets.pop(slot, None)
        self._arrivals.pop(slot, None)

    def is_ready(self, slot: int) -> bool:
        return slot not in self._arrivals or bool(self._arrivals[slot].query())

    def wait(self, slots: Set[int]) -> None:
        """Let what follows on the current stream begin when `slots` have arrived."""
        for slot in slots & self._arrivals.keys():
            torch.cuda.current_stream(self.device).wait_event(self._arrivals.pop(slot))

    def targets(self, slots: Iterable[int]) -> TargetModules:
        """What the adapters in `slots` change; those that are negative or empty count as nothing."""
        return max((self._targets.get(slot, TargetModules.NONE) for slot in slots), default=TargetModules.NONE)

    def _copy(self, slot: int, packed: PackedWeights) -> None:
        memory = torch.empty_like(packed.memory, device=self.device)
        memory.copy_(packed.memory, non_blocking=True)
        self._memory[slot] = memory
        rows = torch.zeros((5, len(INDEX)), dtype=torch.int64, pin_memory=self._copies is not None)
        for column, place in packed.places.items():
            assert place.rank <= self.table.max_rank, f"rank {place.rank} is above {self.table.max_rank}"
            addresses = [0 if offset is None else memory.data_ptr() + offset for offset in place.offsets]
            entries = [entry(address, place.rank) for address in addresses[:2]]
            rows[:, column] = torch.tensor(entries + addresses[2:])
        table = self.table
        for kind, row in zip((table.a, table.b, table.rank_scales, table.affine, table.gates), rows, strict=True):
            kind[slot].copy_(row, non_blocking=True)
        # One gate that looks at the stream is that of all its adapter's targets.
        gates = table.gates[slot]
        table.streams[slot].copy_(gates.max() if packed.looks_at_stream else torch.zeros_like(gates[0]))
