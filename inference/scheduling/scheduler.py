"""Who computes what in the next pass: continuous batching over blocks, rows and adapter slots.

Pure Python. Decode rows come first, then waiting sequences start in order of `inference.scheduling.priority`, then
tiles of prompts are read within a budget of tokens. What a row computes never depends on these choices, so they are
free to serve throughput and fairness:

- Blocks: when they run out the least entitled runner is preempted, and computed again later: its prompt in tiles,
  its generated tokens as decode rows, exactly as after a takeover from another worker.
- Slots: a request waits while every device slot holds another adapter in use (`inference.scheduling.slot_turns`).
- Whoever is entitled to start and finds no place may displace others, who are preempted too, as
  `inference.scheduling.priority` says.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Mapping
from itertools import zip_longest
from operator import attrgetter
from typing import Final

from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.plan import Plan, Work, read_tiles
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.priority import Priority
from inference.scheduling.sequence import Sequence, State
from inference.scheduling.slot_turns import Slots, SlotTurns
from inference.scheduling.traffic import Traffic
from inference.tile import TILE
from inference.wire.capacity import Capacity
from inference.wire.protocol import CLASSES

LOOK_AHEAD: Final = 8
"""Requests to hold beyond those that can run, so that adapters load while others decode."""
NEWCOMERS: Final = 8
"""Tenants with no request here of whom each may send one when there is no other capacity."""
SCORED_TILES: Final = 8
"""Tiles of a pass of whose every row logits are wanted, which take more memory than all else of it."""
PROBES: Final = 4
"""Proofs that run at once, beside the rows: each reads one tile, rides in a pass that is there anyway, and has no
answer."""
BLOCKS_PER_REQUEST: Final = 4
"""A guess at what a request needs, used only to decide how many to accept."""


class Scheduler:
    """Holds every live sequence from `add` to `finish`."""

    def __init__(
        self,
        pool: BlockPool,
        slots: Slots,
        max_rows: int,
        prefill_tokens: int,
        prefixes: PrefixCache | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """`weights` are the shares of tenants, by their name or kind; 1 where there is none."""
        if prefill_tokens < TILE:
            raise ValueError(f"PREFILL_TOKENS is {prefill_tokens}, but a tile has {TILE} tokens")
        self.pool = pool
        self.prefixes = prefixes or PrefixCache(pool, TILE, is_on=False)
        self.slots = slots
        self.max_rows = max_rows
        self.prefill_tokens = prefill_tokens
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.starting: Sequence | None = None
        """Who takes a slot right now: the one to give up when the adapter does not fit on the device."""
        self.priority = Priority(weights)
        self.traffic = Traffic()
        self._turns = SlotTurns(slots, self.traffic.loads)
        self._arrivals = 0
        self._was_for_first_tokens = False
        self._admitted: list[Sequence] = []

    @property
    def capacity(self) -> Capacity:
        """How many more requests to accept now: those that could run, and a bounded look-ahead.

        Half of the slots' turns are kept for those whom fairness lets in beyond `total`.
        """
        turns = self._turns.capacity(self.waiting)
        places = self._places(self.running, self.waiting, self.pool.num_free)
        total = max(0, min(places, turns - self._turns.capacity(()) // 2))
        idle = min(total, places - LOOK_AHEAD)
        num_free = self.pool.num_free + sum(len(runner.block_table) for runner in self.running if not runner.is_chat)
        chats = [runner for runner in self.running if runner.is_chat]
        places = self._places(chats, [sequence for sequence in self.waiting if sequence.is_chat], num_free)
        chat = max(0, min(places, turns) - total)
        return Capacity(total, chat, max(0, min(places + NEWCOMERS, NEWCOMERS, turns - total - chat)), idle)

    def _places(self, running: Collection[Sequence], waiting: Collection[Sequence], num_free: int) -> int:
        """Rows and look-ahead that `running` and `waiting` leave, with `num_free` blocks."""
        free_rows = min(self.max_rows - _num_rows(running), num_free // BLOCKS_PER_REQUEST)
        return free_rows + LOOK_AHEAD - len(waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence, the youngest of all. In state LOADING it waits until `wake`."""
        sequence.arrival = self._arrivals
        self._arrivals += 1
        sequence.check()
        self._turns.enter(sequence)
        self.priority.enter(sequence)
        self.waiting.append(sequence)

    def wake(self, sequence: Sequence) -> None:
        """Let a sequence run whose adapter has been loaded into host memory."""
        if sequence.state is State.LOADING:
            sequence.state = State.WAITING

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence and free all it holds, whatever it was doing."""
        if sequence.state is State.RUNNING:
            self.priority.charge(sequence)
            self._release(sequence)
            self.running.remove(sequence)
        elif sequence.state is not State.FINISHED:
            self.waiting.remove(sequence)
            self.priority.leave(sequence)
        sequence.state = State.FINISHED

    def schedule(self) -> Plan:
        """Choose the next pass and reserve blocks and slots for it. Tokens count as computed after `advance`."""
        for sequence in self.running:
            self.priority.charge(sequence)
        self._reserve()
        self._admit()
        # A sequence that was begun elsewhere may leave its whole prompt behind here, and is past it for all of this
        # pass: whoever is asked after this is asked once.
        for sequence in self.running:
            if sequence.is_prefilling:
                self.prefixes.catch_up(sequence)
        urgent = self._urgent()
        copies = self.prefixes.take_copies()
        admitted = tuple(sequence for sequence in self._admitted if sequence.state is not State.FINISHED)
        self._admitted = []
        if urgent:
            tiles = self._tiles(urgent, self.prefill_tokens)
            return Plan((), tuple(tiles), admitted, copies, is_for_first_tokens=True)
        decodes, budget = self._decodes(self.prefill_tokens)
        return Plan(tuple(decodes), tuple(self._tiles(self.running, budget)), admitted, copies)

    def _urgent(self) -> list[Sequence]:
        """Chats whose tenant waits for its first token while others are answered: their prompts get a pass to
        themselves, which is short. Every other pass at most, so that nobody's answer stands still."""
        answered = {sequence.tenant for sequence in self.running if not sequence.is_prefilling}
        reading = [sequence for sequence in self.running if sequence.is_prefilling and sequence.is_chat]
        urgent = [chat for chat in reading if chat.tenant not in answered and not chat.is_probe]
        self._was_for_first_tokens = bool(answered and urgent) and not self._was_for_first_tokens
        return urgent if self._was_for_first_tokens else []

    def advance(self, plan: Plan) -> None:
        """Count the tokens of a pass that has run as computed. To be called before its samples are appended."""
        for work in plan.works:
            work.sequence.num_computed = work.start + work.length
            self.prefixes.register(work.sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take all that a running sequence holds; it waits, and is computed again from its beginning."""
        self._release(sequence)
        sequence.num_computed = 0
        sequence.state = State.WAITING
        self.running.remove(sequence)
        self._turns.enter(sequence)
        self.priority.enter(sequence)
        insort(self.waiting, sequence, key=attrgetter("arrival"))

    def _reserve(self) -> None:
        """Give every runner blocks for all its tokens; when none are left the least entitled is preempted."""
        growing = [sequence for sequence in self.running if self._num_missing(sequence)]
        is_short = not self.pool.can_allocate(sum(map(self._num_missing, growing)))
        order = self.priority.sorted(self.running) if is_short else growing
        for sequence in list(order):
            while sequence in order and not self.pool.can_allocate(self._num_missing(sequence)):
                self.preempt(order.pop())
                self.traffic.preempted += 1
            if sequence in order:
                sequence.block_table += self.pool.allocate(self._num_missing(sequence))

    def _num_missing(self, sequence: Sequence) -> int:
        return max(0, self.pool.blocks_for(sequence.num_tokens) - len(sequence.block_table))

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

    def _tiles(self, sequences: Iterable[Sequence], budget: int) -> list[Work]:
        """Tiles of prompts as far as `budget` goes: one of the oldest, so that none is put off for ever, then chat
        before evaluation, and in a class one of each tenant in turn."""
        reading = [sequence for sequence in sequences if sequence.is_prefilling]
        if not reading:
            return []
        chosen, lines = read_tiles(reading[0], 1), dict[tuple[str, str], list[Work]]()
        for sequence in self.priority.sorted(reading):
            line = lines.setdefault((sequence.queue_class, sequence.tenant), [])
            line += read_tiles(sequence, budget // TILE - len(line))
        for queue_class in CLASSES:
            own = [line for (of, _), line in lines.items() if of == queue_class]
            chosen += [work for turn in zip_longest(*own) for work in turn if work and work != chosen[0]]
        chosen = self._read_once(_few_scored(chosen))[: budget // TILE]
        return sorted(chosen, key=lambda work: (work.sequence.arrival, work.start))

    def _read_once(self, tiles: list[Work]) -> list[Work]:
        """`tiles` without those that fill blocks which an earlier one fills alike: theirs find them after this pass."""
        kept, filled, waiting = list[Work](), set[bytes](), set[str]()
        for tile in tiles:
            awaited = self.prefixes.awaited(tile.sequence, tile.start, tile.length)
            if awaited and filled.issuperset(awaited):
                waiting.add(tile.sequence.id)
            if tile.sequence.id not in waiting:
                filled.update(self.prefixes.filled(tile.sequence, tile.start, tile.length))
                kept.append(tile)
        return kept

    def _admit(self) -> None:
        """Start waiting sequences in order of priority, as rows, blocks and slots allow, or others are displaced.

        Those who start are noted for the next plan, which may be that of a later call: an adapter may find no room.
        """
        candidates, is_full = list(self.waiting), False
        while sequence := self.priority.next(candidates, self.running):
            candidates.remove(sequence)
            if self._is_read_by_another(sequence):
                continue
            victims = self._victims(sequence)
            if victims is None:
                # Nobody takes what it waits for; but another tenant may take what others give, and a proof no row.
                candidates = [
                    other for other in candidates if other.is_probe or self.priority.is_level(other, sequence)
                ]
                is_full = True
                continue
            if is_full and not victims and not sequence.is_probe:
                continue
            if not self._may_take_slot(sequence, victims):
                victims += self._users_of_a_slot(sequence, victims)
            if not self._may_take_slot(sequence, victims):
                continue
            for victim in victims:
                victim.num_displaced += 1
                self.traffic.displaced += 1
                self.preempt(victim)
            if self._start(sequence):
                self._admitted.append(sequence)

    def _is_read_by_another(self, sequence: Sequence) -> bool:
        """Whether one of its group reads their prompt just now: it is worth a wait to find what that one leaves."""
        is_findable = self.prefixes.is_on and sequence.num_prompt > self.pool.block_size
        if not sequence.group or not is_findable or sequence.needs_every_row:
            return False
        kin = (runner for runner in self.running if runner.group == sequence.group and runner.owner == sequence.owner)
        return any(runner.is_prefilling for runner in kin)

    def _victims(self, sequence: Sequence) -> list[Sequence] | None:
        """Whom to displace for `sequence` to have a row and blocks; None when there is no place even so."""
        victims: list[Sequence] = []
        displaceable = None
        while not self._fits(sequence, victims):
            if displaceable is None:
                displaceable = self.priority.displaceable(sequence, self.running)
            if not displaceable:
                return None
            victims.append(displaceable.pop(0))
        return victims

    def _fits(self, sequence: Sequence, victims: Collection[Sequence]) -> bool:
        """Whether there are a row and blocks for the sequence, and one block to grow for each that runs already."""
        staying = [runner for runner in self.running if runner not in victims]
        returned = [victim.block_table for victim in victims]
        num_rows = _num_rows(staying)
        has_row = len(staying) - num_rows < PROBES if sequence.is_probe else num_rows < self.max_rows
        return has_row and self.prefixes.can_allocate(sequence, len(staying), returned)

    def _may_take_slot(self, sequence: Sequence, victims: Collection[Sequence]) -> bool:
        """Whether a slot is there for the sequence, and its turn at it, once `victims` are preempted."""
        in_use = {runner.digest for runner in self.running if runner.digest and runner not in victims}
        return self._turns.may_take(sequence, self.waiting, in_use)

    def _users_of_a_slot(self, sequence: Sequence, victims: Collection[Sequence]) -> list[Sequence]:
        """Beside `victims`, the fewest who share a slot and may all be displaced; nobody if there are none."""
        displaceable = self.priority.displaceable(sequence, self.running)
        users: dict[str, list[Sequence]] = {}
        for runner in self.running:
            if runner.digest not in ("", sequence.digest) and runner not in victims:
                users.setdefault(runner.digest, []).append(runner)
        free = [group for group in users.values() if all(user in displaceable for user in group)]
        return min(free, key=len, default=[])

    def _start(self, sequence: Sequence) -> bool:
        """Let the sequence run, unless its slot has to wait for a copy."""
        in_use = {runner.digest for runner in self.running if runner.digest}
        self.starting = sequence
        has_slot = self._turns.take(sequence, self.waiting, in_use)
        self.starting = None
        if not has_slot:
            return False
        self.prefixes.allocate(sequence)
        sequence.state = State.RUNNING
        self.waiting.remove(sequence)
        self.priority.start(sequence, self.waiting)
        insort(self.running, sequence, key=attrgetter("arrival"))
        return True

    def _release(self, sequence: Sequence) -> None:
        self.prefixes.free(sequence)
        self._turns.release(sequence)


def _num_rows(sequences: Iterable[Sequence]) -> int:
    """How many of `sequences` take a row."""
    return sum(not sequence.is_probe for sequence in sequences)


def _few_scored(tiles: list[Work]) -> list[Work]:
    """`tiles` without those that are scored beyond the first `SCORED_TILES`."""
    kept = [tile for tile in tiles if tile.is_scored][:SCORED_TILES]
    return [tile for tile in tiles if not tile.is_scored or tile in kept]
