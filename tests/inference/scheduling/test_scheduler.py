from __future__ import annotations

from collections.abc import Collection

import pytest

from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.plan import Plan
from inference.scheduling.scheduler import LOOK_AHEAD, NEWCOMERS, PROBES, Scheduler
from inference.scheduling.sequence import Sequence, State
from inference.scheduling.slot_turns import PATIENCE
from inference.tile import TILE
from inference.wire.capacity import Capacity


class CountingSlots:
    """Slots that forget an adapter as soon as nobody uses it, and count how often they changed hands.

    An adapter whose name begins with "wide" takes the room of two.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.pins: dict[str, int] = {}
        self.num_turns = 0

    def slot(self, digest: str) -> int | None:
        return 0 if digest in self.pins else None

    def fits(self, digests: Collection[str]) -> bool:
        return sum(2 if digest.startswith("wide") else 1 for digest in digests) <= self.num_slots

    def acquire(self, digest: str) -> int | None:
        if not self.fits({*self.pins, digest}):
            return None
        self.num_turns += digest not in self.pins
        self.pins[digest] = self.pins.get(digest, 0) + 1
        return 0

    def release(self, digest: str) -> None:
        self.pins[digest] -= 1
        if not self.pins[digest]:
            del self.pins[digest]


def make(num_blocks: int = 64, num_slots: int = 2, max_rows: int = 8, prefill_tokens: int = 128) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, 32), CountingSlots(num_slots), max_rows, prefill_tokens)


def add(
    scheduler: Scheduler, id: str, prompt: int = 10, digest: str = "", outputs: int = 0, limit: int = 100
) -> Sequence:
    sequence = Sequence(id, tuple(range(prompt)), limit, digest, output_ids=[7] * outputs)
    scheduler.add(sequence)
    return sequence


def step(scheduler: Scheduler) -> Plan:
    """Run a pass in which every sampled sequence gets a token; those that have all of theirs leave."""
    plan = scheduler.schedule()
    scheduler.advance(plan)
    for work in plan.works:
        if work.is_sampled:
            work.sequence.output_ids.append(7)
            if len(work.sequence.output_ids) == work.sequence.max_tokens:
                scheduler.finish(work.sequence)
    return plan


def told(plan: Plan) -> list[tuple[str, str, int, int, bool]]:
    return [("row", work.sequence.id, work.start, work.length, work.is_sampled) for work in plan.decodes] + [
        ("tile", work.sequence.id, work.start, work.length, work.is_sampled) for work in plan.tiles
    ]


def test_a_prompt_is_read_in_aligned_tiles_and_its_last_one_is_sampled() -> None:
    scheduler = make(prefill_tokens=64)
    add(scheduler, "a", prompt=70)
    assert told(step(scheduler)) == [("tile", "a", 0, 32, False), ("tile", "a", 32, 32, False)]
    assert told(step(scheduler)) == [("tile", "a", 64, 6, True)]
    assert told(step(scheduler)) == [("row", "a", 70, 1, True)]


def test_those_who_answer_go_on_while_others_read_their_prompts() -> None:
    scheduler = make(prefill_tokens=64)
    add(scheduler, "a", prompt=5)
    step(scheduler)
    add(scheduler, "b", prompt=100)
    add(scheduler, "c", prompt=5)
    assert told(step(scheduler)) == [
        ("row", "a", 5, 1, True),
        ("tile", "b", 0, 32, False),
        ("tile", "b", 32, 32, False),
    ]
    assert told(step(scheduler)) == [("row", "a", 6, 1, True), ("tile", "b", 64, 32, False), ("tile", "b", 96, 4, True)]
    assert ("tile", "c", 0, 5, True) in told(step(scheduler))


def test_known_tokens_are_replayed_as_rows_after_the_prompt() -> None:
    scheduler = make()
    add(scheduler, "a", prompt=40, outputs=5)
    assert told(step(scheduler)) == [("tile", "a", 0, 32, False), ("tile", "a", 32, 8, False)]
    assert told(step(scheduler)) == [("row", "a", 40, 5, True)]
    assert told(step(scheduler)) == [("row", "a", 45, 1, True)]


def test_a_long_replay_takes_several_steps() -> None:
    scheduler = make(prefill_tokens=32)
    add(scheduler, "a", prompt=1, outputs=50)
    step(scheduler)
    assert told(step(scheduler)) == [("row", "a", 1, 33, False)]
    assert told(step(scheduler)) == [("row", "a", 34, 17, True)]


def test_rows_are_limited() -> None:
    scheduler = make(max_rows=2)
    for name in "abc":
        add(scheduler, name, limit=1 if name == "a" else 100)
    assert {work.sequence.id for work in step(scheduler).works} == {"a", "b"}
    assert {work.sequence.id for work in step(scheduler).works} == {"b", "c"}


def proof(scheduler: Scheduler, id: str) -> Sequence:
    sequence = Sequence(id, (1, 2), 1, "A", is_probe=True)
    scheduler.add(sequence)
    return sequence


def test_a_proof_rides_beside_rows_that_are_all_taken_and_sends_nobody_away() -> None:
    scheduler = make(max_rows=2)
    readers = [add(scheduler, id) for id in ("a", "b")]
    step(scheduler)
    waiting = add(scheduler, "c")
    proofs = [proof(scheduler, f"p{number}") for number in range(PROBES + 1)]
    plan = scheduler.schedule()
    assert [work.sequence.id for work in plan.tiles] == ["p0", "p1", "p2", "p3"]
    assert [work.sequence.id for work in plan.decodes] == ["a", "b"], "in the pass of those who answer"
    assert (waiting.state, proofs[-1].state) == (State.WAITING, State.WAITING)
    assert (scheduler.traffic.displaced, scheduler.traffic.preempted) == (0, 0)
    assert all(reader.state is State.RUNNING for reader in readers)
    for sequence in (*proofs[:-1], *readers):
        scheduler.finish(sequence)
    scheduler.schedule()
    assert (waiting.state, proofs[-1].state) == (State.RUNNING, State.RUNNING)


def test_when_blocks_run_out_the_youngest_is_computed_again_later() -> None:
    scheduler = make(num_blocks=3, max_rows=4)
    old, young = add(scheduler, "old", prompt=31, limit=40), add(scheduler, "young", prompt=20, limit=14)
    step(scheduler)
    assert young.state is State.RUNNING
    while young.state is State.RUNNING:
        step(scheduler)
    assert old.state is State.RUNNING
    assert (young.num_computed, young.block_table) == (0, ())
    before = list(young.output_ids)
    assert before
    while scheduler.running or scheduler.waiting:
        step(scheduler)
    assert young.output_ids[: len(before)] == before
    assert (len(old.output_ids), len(young.output_ids)) == (40, 14)
    assert scheduler.pool.num_free == 3


def test_a_lone_sequence_may_fill_the_whole_cache() -> None:
    scheduler = make(num_blocks=2)
    sequence = add(scheduler, "a", prompt=32, limit=32)
    while scheduler.running or scheduler.waiting:
        step(scheduler)
    assert sequence.num_tokens == 64
    assert scheduler.pool.num_free == 2


def test_a_big_request_is_not_overtaken_for_ever_by_small_ones() -> None:
    scheduler = make(num_blocks=4)
    add(scheduler, "a", prompt=40, limit=3)
    step(scheduler)
    add(scheduler, "big", prompt=100)
    add(scheduler, "small", prompt=1)
    step(scheduler)
    assert [sequence.id for sequence in scheduler.waiting] == ["big", "small"]


def test_a_request_waits_while_all_slots_are_in_use_and_the_base_does_not() -> None:
    scheduler = make(num_slots=1)
    add(scheduler, "a", digest="A")
    waiting = add(scheduler, "b", digest="B")
    add(scheduler, "base")
    assert {work.sequence.id for work in step(scheduler).works} == {"a", "base"}
    scheduler.finish(scheduler.running[0])
    step(scheduler)
    assert waiting.state is State.RUNNING


def test_a_wide_adapter_waits_for_room_and_is_not_passed_for_ever() -> None:
    scheduler = make(num_slots=2, max_rows=100, num_blocks=1000)
    add(scheduler, "a", digest="A", limit=30)
    step(scheduler)
    wide = add(scheduler, "wide", digest="wide")
    riders = [add(scheduler, f"rider-{index}", digest="A", limit=1000) for index in range(PATIENCE + 1)]
    step(scheduler)
    assert wide.state is State.WAITING
    assert [rider.state is State.RUNNING for rider in riders] == [True] * PATIENCE + [False]
    for sequence in list(scheduler.running):
        scheduler.finish(sequence)
    step(scheduler)
    assert wide.state is State.RUNNING


class CopyingSlots(CountingSlots):
    """Slots into which adapters are copied while others go on: there at once, to be pinned when they have `arrived`."""

    def __init__(self, num_slots: int) -> None:
        super().__init__(num_slots)
        self.present: set[str] = set()
        self.arrived: set[str] = set()

    def slot(self, digest: str) -> int | None:
        return 0 if digest in self.present else None

    def acquire(self, digest: str) -> int | None:
        self.present.add(digest)
        return super().acquire(digest) if digest in self.arrived else None


def test_an_adapter_that_is_still_being_copied_holds_nobody_up() -> None:
    slots = CopyingSlots(2)
    scheduler = Scheduler(BlockPool(64, 32), slots, 8, 128)
    slow = add(scheduler, "slow", digest="A")
    add(scheduler, "base")
    for _ in range(3):
        assert [work.sequence.id for work in step(scheduler).works] == ["base"]
    assert (slow.state, slow.slot, slow.block_table) == (State.WAITING, -1, ())
    assert scheduler.traffic.loads["A"] == 1
    slots.arrived.add("A")
    step(scheduler)
    assert slow.state is State.RUNNING
    assert scheduler.traffic.loads["A"] == 1


def test_an_adapter_that_loads_holds_nobody_up() -> None:
    scheduler = make()
    loading = Sequence("a", (1,), 5, "A", state=State.LOADING)
    scheduler.add(loading)
    add(scheduler, "b", digest="B")
    assert [work.sequence.id for work in step(scheduler).works] == ["b"]
    scheduler.wake(loading)
    assert {work.sequence.id for work in step(scheduler).works} == {"a", "b"}


def test_at_most_four_younger_requests_ride_past_one_that_waits_for_a_slot() -> None:
    scheduler = make(num_slots=1, max_rows=100, num_blocks=1000)
    add(scheduler, "first", digest="A", limit=30)
    step(scheduler)
    patient = add(scheduler, "patient", digest="B")
    riders = [add(scheduler, f"rider-{n}", digest="A", limit=30) for n in range(10)]
    step(scheduler)
    assert sum(rider.state is State.RUNNING for rider in riders) == PATIENCE
    while patient.state is not State.RUNNING:
        assert sum(rider.state is State.WAITING for rider in riders) == 10 - PATIENCE
        step(scheduler)
    assert patient.num_passed == PATIENCE


def test_with_more_adapters_than_slots_nobody_waits_for_more_than_four_slot_turns() -> None:
    """Traffic never ends for adapters that hold the slots; whoever is let in by `capacity` still gets one in time."""
    scheduler = make(num_slots=2, max_rows=6, num_blocks=1000)
    slots = scheduler.slots
    assert isinstance(slots, CountingSlots)
    entered: dict[str, int] = {}
    waits: list[float] = []
    for number in range(600):
        if scheduler.capacity:
            popular = number % 3
            id = f"{number}"
            add(scheduler, id, digest=f"{number % 11}" if not popular else "AB"[number % 2], limit=1 + number * 7 % 12)
            entered[id] = slots.num_turns
        for sequence in step(scheduler).admitted:
            waits.append((slots.num_turns - entered[sequence.id]) / slots.num_slots)
            assert sequence.num_passed <= PATIENCE
    assert len(waits) > 200
    assert max(waits) <= 4


def test_capacity_is_bounded_by_rows_look_ahead_and_slots() -> None:
    scheduler = make(max_rows=4, num_slots=16)
    assert scheduler.capacity == Capacity(4 + LOOK_AHEAD, 0, NEWCOMERS, idle=4)
    add(scheduler, "a")
    assert scheduler.capacity.total == 4 + LOOK_AHEAD - 1
    step(scheduler)
    assert scheduler.capacity.total == 4 + LOOK_AHEAD - 1
    few = make(max_rows=64, num_slots=1, num_blocks=1000)
    assert few.capacity.total + few.capacity.chat + few.capacity.newcomers == PATIENCE
    for name in "ABCD":
        add(few, name, digest=name)
    assert not few.capacity


def test_a_finished_sequence_holds_nothing_wherever_it_was() -> None:
    scheduler = make(num_slots=1)
    running, waiting = add(scheduler, "a", digest="A"), add(scheduler, "b", digest="B")
    step(scheduler)
    for sequence in (waiting, running):
        scheduler.finish(sequence)
        scheduler.finish(sequence)
    assert scheduler.pool.num_free == scheduler.pool.num_blocks
    assert scheduler.slots.slot("A") is None
    assert step(scheduler).works == ()


def test_a_budget_below_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="PREFILL_TOKENS is 16"):
        make(prefill_tokens=TILE // 2)
