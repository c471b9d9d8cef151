"""Whose turn it is: chat before evaluation, and within a class whoever has been served least.

Pure Python. It orders sequences and says who must give way to whom; the scheduler knows whether there is place.

- Evaluation goes first once `PATIENCE` chats have started past it while none of it ran, so it never starves.
- Chat displaces running evaluation, and a tenant's first chat displaces one of a tenant that runs several. What is
  displaced is computed again later. A sequence gives way at most `MAX_DISPLACED` times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from inference.scheduling.sequence import Sequence, State
from inference.wire.fairness import ENTRY_COST, Fairness
from inference.wire.protocol import CLASSES

PATIENCE: Final = 16
"""Chats that may start while evaluation waits and none of it runs."""
MAX_DISPLACED: Final = 2
"""How often one sequence gives way to others."""

_Rank = tuple[int, float, float, int]


class Priority:
    """The order among sequences that wait and run, and the service that each tenant has had."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.fairness = Fairness(weights)
        self._num_passed = 0

    def enter(self, sequence: Sequence) -> None:
        """`sequence` begins to wait, or waits again."""
        self.fairness.enter(sequence.tenant, sequence.digest, again=sequence.num_charged is not None)

    def leave(self, sequence: Sequence) -> None:
        """`sequence` ends without having started."""
        self.fairness.leave(sequence.tenant, sequence.digest)

    def start(self, sequence: Sequence, waiting: Iterable[Sequence]) -> None:
        """`sequence` starts, or starts again; its prompt is charged the first time. `waiting` are those left."""
        self.fairness.leave(sequence.tenant, sequence.digest)
        if sequence.num_charged is None:
            self.fairness.charge(sequence.tenant, sequence.digest, sequence.num_prompt, 0)
            sequence.num_charged = len(sequence.output_ids)
        is_passing = _is_chat(sequence) and any(_is_ready(each) and not _is_chat(each) for each in waiting)
        self._num_passed = self._num_passed + 1 if is_passing else 0

    def charge(self, sequence: Sequence) -> None:
        """Count the tokens that a runner has made since the last call."""
        assert sequence.num_charged is not None, "a runner has been charged for its prompt"
        made = len(sequence.output_ids) - sequence.num_charged
        if made:
            self.fairness.charge(sequence.tenant, sequence.digest, 0, made)
            sequence.num_charged += made

    def next(self, waiting: Iterable[Sequence], running: Iterable[Sequence]) -> Sequence | None:
        """Who of `waiting` should start first, if any is ready."""
        ready = [each for each in waiting if _is_ready(each)]
        if self._num_passed >= PATIENCE and all(map(_is_chat, running)):
            ready = [each for each in ready if not _is_chat(each)] or ready
        return min(ready, key=self.rank, default=None)

    def sorted(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """`sequences`, whoever is first entitled to be served first, the last to give way."""
        return sorted(sequences, key=lambda each: (*self.rank(each)[:2], each.arrival))

    def displaced_by(self, sequence: Sequence, running: Collection[Sequence]) -> list[Sequence]:
        """Who of `running` must give way when there is no place for `sequence`, the first to go first."""
        if not _is_chat(sequence):
            return []
        rows = Counter(each.tenant for each in running if _is_chat(each))
        is_guest = not rows[sequence.tenant]
        lesser = []
        for each in reversed(self.sorted(running)):
            if each.num_displaced == MAX_DISPLACED:
                continue
            if not _is_chat(each) or (is_guest and rows[each.tenant] > 1):
                rows[each.tenant] -= _is_chat(each)
                lesser.append(each)
        return lesser

    def is_level(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether `sequence` comes after `other`, of another tenant, only for what its tenant paid to enter."""
        (own_class, own, *_), (its_class, its, *_) = self.rank(sequence), self.rank(other)
        return sequence.tenant != other.tenant and own_class == its_class and own <= its + ENTRY_COST

    def rank(self, sequence: Sequence) -> _Rank:
        """The key of the order: class, counters of tenant and adapter, age."""
        tenant, adapter = self.fairness.served(sequence.tenant, sequence.digest)
        return CLASSES.index(sequence.queue_class), tenant, adapter, sequence.arrival


def _is_chat(sequence: Sequence) -> bool:
    return sequence.queue_class == "chat"


def _is_ready(sequence: Sequence) -> bool:
    return sequence.state is State.WAITING
