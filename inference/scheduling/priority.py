"""Whose turn it is: chat before evaluation, and within a class whoever has been served least.

Pure Python. It orders sequences and says who may displace whom; the scheduler knows whether there is place.

- Evaluation goes first once `EVALUATION_PATIENCE` chats have started past it while none of it ran, so it never starves.
- Chat displaces running evaluation, and a tenant's first chat displaces one of a tenant that runs several. What is
  displaced is computed again later. A sequence is displaced at most `MAX_DISPLACED` times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from inference.scheduling.sequence import Sequence
from inference.wire.contract import EVALUATION_PATIENCE
from inference.wire.fairness import ENTRY_COST, Fairness
from inference.wire.protocol import CLASSES

MAX_DISPLACED: Final = 2
"""How often one sequence is displaced."""


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
        is_passing = sequence.is_chat and any(other.is_ready and not other.is_chat for other in waiting)
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
        ready = [sequence for sequence in waiting if sequence.is_ready]
        if self._num_passed >= EVALUATION_PATIENCE and all(runner.is_chat for runner in running):
            ready = [sequence for sequence in ready if not sequence.is_chat] or ready
        return min(ready, key=self.key, default=None)

    def sorted(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """`sequences`, first who is entitled to be served first, last who is to be preempted first."""
        return sorted(sequences, key=lambda sequence: (*self.key(sequence)[:2], sequence.arrival))

    def displaceable(self, sequence: Sequence, running: Collection[Sequence]) -> list[Sequence]:
        """Who of `running` may be displaced when there is no place for `sequence`, the first to go first.

        A proof, for which a program waits, displaces nobody.
        """
        if not sequence.is_chat or sequence.is_probe:
            return []
        rows = Counter(runner.tenant for runner in running if runner.is_chat)
        has_no_row = not rows[sequence.tenant]
        displaceable = []
        for runner in reversed(self.sorted(running)):
            if runner.num_displaced == MAX_DISPLACED:
                continue
            if not runner.is_chat or (has_no_row and rows[runner.tenant] > 1):
                rows[runner.tenant] -= runner.is_chat
                displaceable.append(runner)
        return displaceable

    def is_level(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether `sequence` comes after `other`, of another tenant, only for what its tenant paid to enter."""
        (own_class, own, *_), (its_class, its, *_) = self.key(sequence), self.key(other)
        return sequence.tenant != other.tenant and own_class == its_class and own <= its + ENTRY_COST

    def key(self, sequence: Sequence) -> tuple[int, float, float, int]:
        """What sequences are ordered by: class, counters of tenant and adapter, age."""
        tenant, adapter = self.fairness.served(sequence.tenant, sequence.digest)
        return CLASSES.index(sequence.queue_class), tenant, adapter, sequence.arrival
