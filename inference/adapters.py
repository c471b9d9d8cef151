"""Adapters from disk to device: by digest out of the store, through the host cache, into a slot.

What is loaded has been proved to be what was asked for (`inference.adapter_file`). Both caches forget the least
recently used first; a slot in use is pinned.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

from inference.adapter_file import Base, HostAdapter
from inference.batch import Batch
from inference.composition import compose
from inference.layers.lora import AdapterWeights, LoraBank, LoraPlan
from inference.layers.panels import Layout
from inference.mapped_adapter import load_mapped
from inference.protocol import Component

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class AdapterNotFound(LookupError):
    """No adapter of this `digest` lies in the store."""

    def __init__(self, digest: str, sentence: str) -> None:
        super().__init__(sentence)
        self.digest = digest


class AdapterStore:
    """The directory that holds adapters, each in a folder named by its digest."""

    def __init__(self, directory: Path, base: Base, max_rank: int = 64) -> None:
        self.directory = directory
        self._base, self._max_rank = base, max_rank

    def load(self, digest: str) -> HostAdapter:
        """Map or read the adapter `digest`. Raises `AdapterNotFound`, or `AdapterRefused` with every reason."""
        return load_mapped(self.path(digest), digest, self._base, self._max_rank)

    def path(self, digest: str) -> Path:
        """The folder of `digest`, which must lie inside the store; raises `AdapterNotFound`."""
        if not _DIGEST.fullmatch(digest):
            sentence = f"{digest[:80]!r} is no adapter digest; one is 64 hexadecimal digits in lower case"
            raise AdapterNotFound(digest, sentence)
        path = (self.directory / digest).resolve()
        if not path.is_relative_to(self.directory.resolve()) or not path.is_dir():
            raise AdapterNotFound(digest, f"no adapter {digest[:12]}… is stored here; import it again")
        return path


class AdapterCache:
    """Adapters in host memory, at most `max_bytes` of them. Safe to call from several threads.

    Sums of adapters, of ranks up to `max_rank` together, are made from what is kept and kept like any other.
    What is kept is in the layout that `prepare` gives weights, which is one of `Bank`.
    """

    def __init__(
        self,
        load: Callable[[str], HostAdapter],
        max_bytes: int,
        max_rank: int = 64,
        prepare: Callable[[AdapterWeights], AdapterWeights] = lambda weights: weights,
    ) -> None:
        self._load, self._max_bytes, self._max_rank, self._prepare = load, max_bytes, max_rank, prepare
        self._kept: OrderedDict[str, HostAdapter] = OrderedDict()
        self._lock = Lock()

    @property
    def digests(self) -> tuple[str, ...]:
        """What is kept, least recently used first."""
        with self._lock:
            return tuple(self._kept)

    @property
    def num_bytes(self) -> int:
        """Bytes of weights kept."""
        with self._lock:
            return self._num_bytes()

    def find(self, digest: str) -> HostAdapter | None:
        """The adapter `digest` if it is kept."""
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
            return self._kept.get(digest)

    def load(self, digest: str, components: tuple[Component, ...] = ()) -> HostAdapter:
        """The adapter `digest`, read if it is not kept, or added up from `components` if there are any.

        Raises as `AdapterStore.load` and `compose` do.
        """
        if kept := self.find(digest):
            return kept
        parts = [(self.load(each.digest), each.weight) for each in components]
        adapter = compose(digest, parts, self._max_rank) if parts else self._load(digest)
        adapter = replace(adapter, weights=self._prepare(adapter.weights))
        with self._lock:
            self._keep(adapter)
        return adapter

    def _keep(self, adapter: HostAdapter) -> None:
        """An adapter larger than the whole cache is served but not kept."""
        if adapter.num_bytes > self._max_bytes:
            return
        self._kept[adapter.digest] = adapter
        self._kept.move_to_end(adapter.digest)
        while self._num_bytes() > self._max_bytes:
            self._kept.popitem(last=False)

    def _num_bytes(self) -> int:
        return sum(adapter.num_bytes for adapter in self._kept.values())


class Bank(Protocol):
    """The weights on the device by slot, in the layout of the decoder that reads them.

    `prepare` brings weights nearer to that layout, on any thread; `is_ready` says whether those last put into a
    slot have arrived.
    """

    def prepare(self, weights: AdapterWeights) -> AdapterWeights: ...

    def put(self, slot: int, weights: AdapterWeights) -> None: ...

    def is_ready(self, slot: int) -> bool: ...

    def clear(self, slot: int) -> None: ...


class LoraSlots:
    """The adapters on the device: `num_slots` of up to `max_bytes` together, pinned while any sequence uses them.

    One that is larger than that is there alone. `bank` holds their weights: a `LoraBank` on the CPU unless another
    is given.
    """

    def __init__(
        self,
        num_slots: int,
        load: Callable[[str], HostAdapter],
        bank: Bank | None = None,
        max_bytes: float = math.inf,
    ) -> None:
        self.num_slots, self.max_bytes = num_slots, max_bytes
        self.bank = bank or LoraBank()
        self._load = load
        self._sizes: dict[str, int] = {}
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._pins: dict[str, int] = {}
        self._free = list(range(num_slots))[::-1]

    @property
    def digests(self) -> tuple[str, ...]:
        """What is on the device, least recently used first."""
        return tuple(self._slots)

    @property
    def num_pinned(self) -> int:
        """Slots in use."""
        return len(self._pins)

    def slot(self, digest: str) -> int | None:
        """Where `digest` sits, if it is on the device."""
        return self._slots.get(digest)

    def pins(self, digest: str) -> int:
        """How many hold `digest`."""
        return self._pins.get(digest, 0)

    @property
    def num_bytes(self) -> int:
        """Bytes of weights on the device."""
        return sum(self._sizes.values())

    def fits(self, digests: Collection[str]) -> bool:
        """Whether `digests` could be pinned together; those that are not on the device must be there to load."""
        if len(digests) > self.num_slots:
            return False
        return len(digests) == 1 or sum(map(self._size, digests)) <= self.max_bytes

    def can_acquire(self, digest: str) -> bool:
        """Whether `acquire` would find a slot now."""
        held = {each for each, slot in self._slots.items() if each in self._pins or not self.bank.is_ready(slot)}
        return digest in self._slots or self.fits({*held, digest})

    def acquire(self, digest: str) -> int | None:
        """Pin `digest` and return its slot, loading it when needed.

        None while what others pin leaves no room, and while the adapter is on its way, so that others decode meanwhile.
        Raises what `load` raises, in which case nothing has changed. Each success needs one `release`.
        """
        if not self.can_acquire(digest):
            return None
        if digest not in self._slots:
            self._place(self._load(digest))
        self._slots.move_to_end(digest)
        if not self.bank.is_ready(self._slots[digest]):
            return None
        self._pins[digest] = self.pins(digest) + 1
        return self._slots[digest]

    def release(self, digest: str) -> None:
        """Give back one `acquire`; the adapter stays on the device until its slot is wanted."""
        left = self.pins(digest) - 1
        assert left >= 0, f"adapter {digest[:12]} was released more often than acquired"
        if left:
            self._pins[digest] = left
        else:
            del self._pins[digest]

    def plan(self, batch: Batch, layout: Layout) -> LoraPlan:
        """Who adds to which rows of `batch`, for the torch decoder."""
        assert isinstance(self.bank, LoraBank), "only the torch decoder asks for a plan"
        return self.bank.plan(batch, layout)

    def _place(self, adapter: HostAdapter) -> None:
        while not self._has_room(adapter):
            self._evict()
        slot = self._free.pop()
        try:
            self.bank.put(slot, adapter.weights)
        except BaseException:
            self._free.append(slot)
            raise
        self._slots[adapter.digest] = slot
        self._sizes[adapter.digest] = adapter.num_bytes

    def _has_room(self, adapter: HostAdapter) -> bool:
        """Whether there is a slot and room in it beside all that is on the device."""
        return bool(self._free) and (not self._slots or self.num_bytes + adapter.num_bytes <= self.max_bytes)

    def _evict(self) -> None:
        """Take the least recently used adapter that nobody pins; one on its way has not been used at all yet."""
        idle = (each for each, slot in self._slots.items() if each not in self._pins and self.bank.is_ready(slot))
        digest = next(idle)
        slot = self._slots.pop(digest)
        del self._sizes[digest]
        self.bank.clear(slot)
        self._free.append(slot)

    def _size(self, digest: str) -> int:
        return self._sizes[digest] if digest in self._sizes else self._load(digest).num_bytes
