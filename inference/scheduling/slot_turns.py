"""Whose turn it is at the device's adapter slots: nobody waits while they change hands more than four times over.

Pure Python, over what the scheduler says is running. A request enters when at most `PATIENCE` older ones wait for
each slot (`SlotTurns.capacity`), so in order of age it would have its slot in time; whoever is younger may go first
only while that leaves every older one its turn. And at most `PATIENCE` younger requests may ride a slot that is
in use past one that waits for a slot; then all of them wait until a slot has drained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from operator import attrgetter
from typing import Final, Protocol

from inference.scheduling.sequence import Sequence

PATIENCE: Final = 4


class Slots(Protocol):
    """Places for adapters on the device. `acquire` pins and `release` unpins; pins are counted.

    `fits` says whether adapters, all of them loaded, can be pinned together; `acquire` gives None while an adapter
    does not fit beside those that are, or is still being copied; `slot` tells where an adapter is, without a pin.
    """

    num_slots: int

    def fits(self, digests: Collection[str]) -> bool: ...

    def slot(self, digest: str) -> int | None: ...

    def acquire(self, digest: str) -> int | None: ...

    def release(self, digest: str) -> None: ...


class SlotTurns:
    """Hands out `slots` and counts how often they change hands, and in `loads` to whom."""

    def __init__(self, slots: Slots, loads: Counter[str]) -> None:
        self.slots = slots
        self.num_turns = 0
        self._loads = loads

    def capacity(self, waiting: Collection[Sequence]) -> int:
        """How many more requests may come in and still have their turn in time."""
        return PATIENCE * self.slots.num_slots - sum(bool(sequence.digest) for sequence in waiting)

    def enter(self, sequence: Sequence) -> None:
        """`sequence` begins to wait."""
        sequence.first_turn = self.num_turns

    def may_take(self, sequence: Sequence, waiting: Collection[Sequence], in_use: Collection[str]) -> bool:
        """Whether `sequence` may have a slot now, while `in_use` are the adapters of those who run."""
        if not sequence.digest:
            return True
        if sequence.digest in in_use:
            return all(passed.num_passed < PATIENCE for passed in self._passed(sequence, waiting, in_use))
        return self.slots.fits({*in_use, sequence.digest}) and self.has_turn(sequence, waiting)

    def has_turn(self, sequence: Sequence, waiting: Collection[Sequence]) -> bool:
        """Whether every older one who waits could still have its turn in time behind `sequence`."""
        line = sorted((other for other in waiting if other.digest), key=attrgetter("arrival"))
        older = [(place, other) for place, other in enumerate(line) if other.arrival < sequence.arrival]
        # How many turns may still pass until one that has waited from the first must have had its own.
        spare = PATIENCE * self.slots.num_slots - self.num_turns
        return all(spare + other.first_turn > place + 1 for place, other in older if other.is_ready)

    def take(self, sequence: Sequence, waiting: Collection[Sequence], in_use: Collection[str]) -> bool:
        """Pin a slot for `sequence`, which `may_take` one; false while its adapter, or another, is on its way there."""
        if not sequence.digest:
            return True
        was_away = self.slots.slot(sequence.digest) is None
        slot = self.slots.acquire(sequence.digest)
        if was_away and self.slots.slot(sequence.digest) is not None:
            self._loads[sequence.digest] += 1
            self.num_turns += 1
        if slot is None:
            return False
        for passed in self._passed(sequence, waiting, in_use) if sequence.digest in in_use else ():
            passed.num_passed += 1
        sequence.slot = slot
        return True

    def release(self, sequence: Sequence) -> None:
        """Unpin the slot of `sequence`, if it has one."""
        if sequence.slot >= 0:
            self.slots.release(sequence.digest)
        sequence.slot = -1

    def _passed(self, sequence: Sequence, waiting: Collection[Sequence], in_use: Collection[str]) -> list[Sequence]:
        """The older ones that wait because what others use leaves no room for their adapter."""
        older = [other for other in waiting if other.digest and other.arrival < sequence.arrival]
        idle = [other for other in older if other.is_ready and other.digest not in in_use]
        return [other for other in idle if not self.slots.fits({*in_use, other.digest})]
