"""Adapters on their way to a GPU: packed into one piece of pinned memory by the thread that reads them, copied
into a slot on a stream of their own while others decode.

A slot is a row of `SlotTable`, which names addresses, so an adapter takes the memory of its own rank's bucket and
its own targets, wherever the allocator finds it, and a captured CUDA graph does not mind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.adapter_file import HostAdapter
from inference.adapters import LoraSlots
from inference.architecture import EMBEDDING
from inference.kernels.lora import INDEX, Pair, SlotTable, bucket, empty_table, quantize
from inference.layers.lora import TargetWeights

_ALIGNMENT: Final = 256


@dataclass(frozen=True)
class Place:
    """Where in an adapter's memory the parts of a `Pair` lie, in bytes, None for those it has not; its padded rank."""

    rank: int
    offsets: tuple[int | None, ...]


@dataclass(frozen=True)
class PackedAdapter(HostAdapter):
    """An adapter as the kernels want it: one piece of `memory` uint8, and the places by column of the table."""

    memory: Tensor
    places: dict[int, Place]


def pack(adapter: HostAdapter, is_int8: bool = False, is_pinned: bool = False) -> PackedAdapter:
    """`adapter` in the layout of `Pair`, target after target, ranks padded to their buckets."""
    parts: list[tuple[int, Tensor]] = []
    places: dict[int, Place] = {}
    end = 0
    for target, weights in adapter.weights.items():
        pair = _pair(target, weights, is_int8)
        offsets: list[int | None] = []
        for part in (pair.a, pair.b, pair.unit, pair.scale):
            offsets.append(None if part is None else end)
            if part is not None:
                parts.append((end, part))
                end += -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT
        places[INDEX[target]] = Place(pair.rank, tuple(offsets))
    memory = torch.zeros(end, dtype=torch.uint8, pin_memory=is_pinned)
    for start, part in parts:
        memory[start : start + part.nbytes].view(part.dtype).view(part.shape).copy_(part)
    return PackedAdapter(adapter.digest, {}, adapter.rank, memory.nbytes, memory, places)


def packing(load: Callable[[str], HostAdapter], is_int8: bool, is_pinned: bool) -> Callable[[str], HostAdapter]:
    """`load`, with its adapters packed by the thread that calls it."""
    return lambda digest: pack(load(digest), is_int8, is_pinned)


def _pair(target: str, weights: TargetWeights, is_int8: bool) -> Pair:
    rank = bucket(weights.rank)
    a = functional.pad(weights.a.transpose(1, 2), (0, 0, 0, rank - weights.rank))
    b = functional.pad(weights.b, (0, 0, 0, rank - weights.rank))
    unit: Tensor | None = None
    if is_int8:
        a, b, unit = quantize(a, b)
    return Pair(a.transpose(1, 2) if target == EMBEDDING else a, b, unit, weights.scale)


class SlotBank:
    """The memory of the adapters on `device` and the table by which the kernels find it.

    Every `put` is a copy on a stream of its own; `wait` makes a pass wait for the slots that it reads, and only
    for those.
    """

    def __init__(self, num_slots: int, max_rank: int, device: torch.device, is_int8: bool = False) -> None:
        self.device, self.is_int8 = device, is_int8
        self.table: SlotTable = empty_table(num_slots, max_rank, device, is_int8)
        self._memory: dict[int, Tensor] = {}
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arrivals: dict[int, torch.cuda.Event] = {}

    def put(self, slot: int, adapter: HostAdapter) -> None:
        """Begin to copy `adapter` into `slot`, which no pass reads any more."""
        packed = adapter if isinstance(adapter, PackedAdapter) else pack(adapter, self.is_int8)
        if self._copies is None:
            self._copy(slot, packed)
            return
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            self._copy(slot, packed)
            self._arrivals[slot] = self._copies.record_event()

    def clear(self, slot: int) -> None:
        """Give back the memory of `slot`, which no pass reads any more."""
        self._memory.pop(slot, None)
        self._arrivals.pop(slot, None)

    def is_ready(self, slot: int) -> bool:
        """Whether a pass could read `slot` without waiting."""
        return slot not in self._arrivals or bool(self._arrivals[slot].query())

    def wait(self, slots: Iterable[int]) -> None:
        """Let what follows on the current stream begin when `slots` have arrived."""
        for slot in set(slots) & self._arrivals.keys():
            torch.cuda.current_stream(self.device).wait_event(self._arrivals.pop(slot))

    def _copy(self, slot: int, packed: PackedAdapter) -> None:
        memory = torch.empty_like(packed.memory, device=self.device)
        memory.copy_(packed.memory, non_blocking=True)
        self._memory[slot] = memory
        rows = torch.zeros((5, len(INDEX)), dtype=torch.int64, pin_memory=self._copies is not None)
        for column, place in packed.places.items():
            assert place.rank <= self.table.max_rank, f"rank {place.rank} is above {self.table.max_rank}"
            addresses = [0 if offset is None else memory.data_ptr() + offset for offset in place.offsets]
            rows[:, column] = torch.tensor([*addresses, place.rank])
        table = self.table
        for kind, row in zip((table.a, table.b, table.unit, table.scale, table.rank), rows, strict=True):
            kind[slot].copy_(row, non_blocking=True)


class DeviceSlots(LoraSlots):
    """The slots of a GPU: the bookkeeping of `LoraSlots` over the memory of a `SlotBank`."""

    def __init__(self, bank: SlotBank, load: Callable[[str], HostAdapter]) -> None:
        super().__init__(bank.table.num_slots, load)
        self.bank = bank

    def acquire(self, digest: str) -> int | None:
        """As `LoraSlots.acquire`; None too while the adapter is on its way, so that others decode meanwhile."""
        slot = super().acquire(digest)
        if slot is not None and not self.bank.is_ready(slot):
            self.release(digest)
            return None
        return slot

    def _put(self, slot: int, adapter: HostAdapter) -> None:
        self.bank.put(slot, adapter)

    def _clear(self, slot: int) -> None:
        self.bank.clear(slot)
