"""Who computes what in the next pass: continuous batching over blocks, rows and adapter slots.

Pure Python. Decode rows come first, then tiles of prompts within a budget of tokens, then newcomers in order
of age. What a row computes never depends on these choices, so they are free to serve throughput and fairness:

- Blocks: when they run out the youngest runner loses its own, and is computed again later: its prompt in the
  same tiles, its generated tokens as decode rows, exactly as after a takeover from another worker.
- Slots: a request waits while every device slot holds another adapter in use. At most `PATIENCE` younger
  requests may ride an occupied slot past it; then all of them wait until a slot has drained.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import Final, Protocol

from inference.kv_cache import BlockPool
from inference.prefix_cache import PrefixCache
from inference.sequence import Sequence, State

PATIENCE: Final = 4
"""Slot turns: how many younger requests may be admitted to a slot before one that waits for a slot."""
TILE: Final = 32
"""Tokens of a prefill tile; tiles start at multiples of it."""
LOOK_AHEAD: Final = 8
"""Requests to hold beyond those that can run, so that adapters load while others decode."""
BLOCKS_PER_REQUEST: Final = 4
"""A guess at what a request needs, used only to decide how many to accept."""


class Slots(Protocol):
    """Places for adapters on the device. `acquire` pins and `release` unpins; pins are counted.

    `acquire` gives None while all places are pinned by others; `slot` tells where an adapter is, without a pin.
    """

    num_slots: int

    def slot(self, digest: str) -> int | None: ...

    def acquire(self, digest: str) -> int | None: ...

    def release(self, digest: str) -> None: ...


@dataclass(frozen=True)
class Work:
    """Positions [start, start + length) of a sequence: one tile, or `length` decode rows.

    `is_sampled` says that the last of them decides the sequence's next token.
    """

    sequence: Sequence
    start: int
    length: int
    is_sampled: bool


@dataclass(frozen=True)
class Plan:
    """One pass: decode rows and tiles, and the sequences that start or start again with it."""

    decodes: tuple[Work, ...] = ()
    tiles: tuple[Work, ...] = ()
    admitted: tuple[Sequence, ...] = ()

    @property
    def works(self) -> tuple[Work, ...]:
        """All the work, decode rows first."""
        return self.decodes + self.tiles


class Scheduler:
    """Holds every live sequence from `add` to `finish`."""

    def __init__(
        self, pool: BlockPool, slots: Slots, max_rows: int, prefill_tokens: int, prefixes: PrefixCache | None = None
    ) -> None:
        if prefill_tokens < TILE:
            raise ValueError(f"PREFILL_TOKENS is {prefill_tokens}, but a tile has {TILE} tokens")
        self.pool = pool
        self.prefixes = prefixes or PrefixCache(pool, TILE, is_on=False)
        self.slots = slots
        self.max_rows = max_rows
        self.prefill_tokens = prefill_tokens
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self._arrivals = 0

    @property
    def room(self) -> int:
        """How many more requests to accept now: those that could run, and a bounded look-ahead.

        A slot changes hands at most once for each older request that waits, so that with no more than
        `PATIENCE` of them for each slot nobody sees the slots change hands more than `PATIENCE` times over.
        """
        free_rows = min(self.max_rows - len(self.running), self.pool.num_free // BLOCKS_PER_REQUEST)
        turns = PATIENCE * self.slots.num_slots - sum(bool(each.digest) for each in self.waiting)
        return max(0, min(free_rows + LOOK_AHEAD - len(self.waiting), turns))

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence, the youngest of all. In state LOADING it waits until `wake`."""
        sequence.arrival = self._arrivals
        self._arrivals += 1
        sequence.check()
        self.waiting.append(sequence)

    def wake(self, sequence: Sequence) -> None:
        """Let a sequence run whose adapter has been loaded into host memory."""
        if sequence.state is State.LOADING:
            sequence.state = State.WAITING

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence and free all it holds, whatever it was doing."""
        if sequence.state is State.RUNNING:
            self._release(sequence)
            self.running.remove(sequence)
        elif sequence.state is not State.FINISHED:
            self.waiting.remove(sequence)
        sequence.state = State.FINISHED

    def schedule(self) -> Plan:
        """Choose the next pass and reserve blocks and slots for it. Tokens count as computed after `advance`."""
        self._reserve()
        budget = self.prefill_tokens
        decodes, budget = self._decodes(budget)
        tiles, budget = self._tiles(self.running, budget)
        admitted = self._admit() if budget >= TILE else []
        more_tiles, budget = self._tiles(admitted, budget)
        return Plan(tuple(decodes), tuple(tiles + more_tiles), tuple(admitted))

    def advance(self, plan: Plan) -> None:
        """Count the tokens of a pass that has run as computed. To be called before its samples are appended."""
        for work in plan.works:
            work.sequence.num_computed = work.start + work.length
            self.prefixes.keep(work.sequence)

    def _reserve(self) -> None:
        """Give every runner blocks for all its tokens, the oldest first; preempt the youngest when none are left."""
        for sequence in list(self.running):
            if sequence.state is not State.RUNNING:
                continue
            missing = self.pool.blocks_for(sequence.num_tokens) - len(sequence.block_table)
            while missing > 0 and not self.pool.can_allocate(missing) and sequence.state is State.RUNNING:
                self._preempt(self.running[-1])
            if missing > 0 and sequence.state is State.RUNNING:
                sequence.block_table += self.pool.allocate(missing)

    def _decodes(self, budget: int) -> tuple[list[Work], int]:
        """One row for every runner past its prompt; several, within `budget`, where known tokens are replayed."""
        works = []
        for sequence in self.running:
            if sequence.is_prefilling:
                continue
            pending = sequence.num_tokens - sequence.num_computed
            length = min(pending, 1 + budget)
            budget -= length - 1
            works.append(Work(sequence, sequence.num_computed, length, is_sampled=length == pending))
        return works, budget

    def _tiles(self, sequences: list[Sequence], budget: int) -> tuple[list[Work], int]:
        """Whole tiles of prompts, oldest sequence first, as far as `budget` goes."""
        works = []
        for sequence in sequences:
            if sequence.is_prefilling:
                self.prefixes.catch_up(sequence)
            start = sequence.num_computed
            while start < sequence.num_prompt and budget >= TILE:
                length = min(TILE, sequence.num_prompt - start)
                is_last = start + length == sequence.num_tokens
                works.append(Work(sequence, start, length, is_sampled=is_last))
                start += length
                budget -= TILE
        return works, budget

    def _admit(self) -> list[Sequence]:
        """Start waiting sequences, oldest first, as rows, blocks and slots allow."""
        admitted: list[Sequence] = []
        blocked: list[Sequence] = []
        for sequence in list(self.waiting):
            if len(self.running) >= self.max_rows or not self._fits(sequence):
                break
            if sequence.state is State.LOADING or not self._take_slot(sequence, blocked):
                continue
            self._start(sequence)
            admitted.append(sequence)
        return admitted

    def _fits(self, sequence: Sequence) -> bool:
        """Whether there are blocks for the sequence, and one to grow for each that runs already."""
        return self.prefixes.fits(sequence, spare=len(self.running))

    def _take_slot(self, sequence: Sequence, blocked: list[Sequence]) -> bool:
        """Pin a slot for the sequence unless there is none, or `blocked`, who are older, have been patient enough."""
        if not sequence.digest:
            return True
        is_drained = any(each.num_passed >= PATIENCE for each in blocked)
        slot = None if is_drained else self.slots.acquire(sequence.digest)
        if slot is None:
            blocked.append(sequence)
            return False
        for each in blocked:
            each.num_passed += 1
        sequence.slot = slot
        return True

    def _start(self, sequence: Sequence) -> None:
        self.prefixes.begin(sequence)
        sequence.state = State.RUNNING
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_age)

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.num_computed = 0
        sequence.state = State.WAITING
        self.running.remove(sequence)
        insort(self.waiting, sequence, key=_age)

    def _release(self, sequence: Sequence) -> None:
        self.prefixes.end(sequence)
        if sequence.slot >= 0:
            self.slots.release(sequence.digest)
        sequence.slot = -1


def _age(sequence: Sequence) -> int:
    return sequence.arrival
