"""The adapters on the device: which one sits in which slot. The least recently used goes first, one in use stays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection

from inference.adapters.file import HostAdapter
from inference.adapters.weights import AdapterWeights


class Bank(ABC):
    """The weights on the device by slot, in the layout of the decoder that reads them.

    Where `is_packed` it is the order of `inference.adapters.packed_lora`, in which files are read at once.
    """

    is_packed: bool = False

    def prepare(self, weights: AdapterWeights) -> AdapterWeights:
        """`weights` nearer to the layout, on any thread."""
        return weights

    @abstractmethod
    def put(self, slot: int, weights: AdapterWeights) -> None:
        """Place `weights` in `slot`, which no pass reads any more, in place of what was there."""

    def is_ready(self, slot: int) -> bool:
        """Whether a pass could read `slot` without waiting."""
        return True

    @abstractmethod
    def clear(self, slot: int) -> None:
        """Empty `slot`, which no pass reads any more."""


class LoraSlots:
    """The adapters on the device: `num_slots` of up to `max_bytes` together, pinned while any sequence uses them.

    One that is larger than that is there alone. `bank` holds their weights.
    """

    def __init__(
        self,
        num_slots: int,
        load: Callable[[str], HostAdapter],
        bank: Bank,
        max_bytes: float = math.inf,
    ) -> None:
        self.num_slots, self.max_bytes = num_slots, max_bytes
        self.bank = bank
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
        held = {digest for digest, slot in self._slots.items() if digest in self._pins or not self.bank.is_ready(slot)}
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
        idle = (digest for digest, slot in self._slots.items() if digest not in self._pins and self.bank.is_ready(slot))
        digest = next(idle)
        slot = self._slots.pop(digest)
        del self._sizes[digest]
        self.bank.clear(slot)
        self._free.append(slot)

    def _size(self, digest: str) -> int:
        return self._sizes[digest] if digest in self._sizes else self._load(digest).num_bytes
