"""Whose turn it is: shares of tenants, chat and evaluation, and who displaces whom. Counted, never timed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.plan import Plan
from inference.scheduling.priority import MAX_DISPLACED
from inference.scheduling.scheduler import LOOK_AHEAD, NEWCOMERS, Scheduler
from inference.scheduling.sequence import Sequence, State
from inference.wire.capacity import Capacity
from inference.wire.contract import EVALUATION_PATIENCE
from inference.wire.fairness import ENTRY_COST, INPUT_COST, OUTPUT_COST
from inference.wire.protocol import QueueClass
from tests.inference.scheduling.test_scheduler import CountingSlots, step


class House:
    """A scheduler, and what each tenant has been given: tokens of prompts when they start, others as they are made."""

    def __init__(
        self, max_rows: int = 4, num_blocks: int = 200, num_slots: int = 64, weights: dict[str, float] | None = None
    ) -> None:
        pool = BlockPool(num_blocks, 32)
        self.scheduler = Scheduler(pool, CountingSlots(num_slots), max_rows, 256, weights=weights)
        self.capacity = num_blocks * 32
        self.served: Counter[str] = Counter()
        self._seen: dict[Sequence, int] = {}
        self.count = 0

    def add(
        self, tenant: str, prompt: int = 10, limit: int = 10, digest: str = "", queue_class: QueueClass = "chat"
    ) -> Sequence:
        sequence = Sequence(
            f"{tenant}-{self.count}", tuple(range(prompt)), limit, digest, tenant=tenant, queue_class=queue_class
        )
        self.count += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Plan:
        plan = step(self.scheduler)
        for sequence in plan.admitted:
            if sequence not in self._seen:
                self._seen[sequence] = 0
                self.served[sequence.tenant] += INPUT_COST * sequence.num_prompt
        for sequence, seen in self._seen.items():
            self.served[sequence.tenant] += OUTPUT_COST * (len(sequence.output_ids) - seen)
            self._seen[sequence] = len(sequence.output_ids)
        return plan

    @property
    def running(self) -> Counter[str]:
        return Counter(sequence.tenant for sequence in self.scheduler.running)


sizes = st.tuples(st.integers(1, 100), st.integers(1, 60))


@settings(max_examples=40, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=6), st.lists(sizes, min_size=1, max_size=6), st.integers(1, 6))
def test_two_tenants_that_always_wait_never_differ_by_more_than_the_bound(first, second, max_rows):
    house = House(max_rows, num_blocks=max_rows * 6)
    shapes = {"a": first, "b": second}
    longest = max(prompt for prompt, _ in first + second)
    full_batch = max_rows * max(prompt + limit for prompt, limit in first + second)
    bound = 2 * max(INPUT_COST * longest, OUTPUT_COST * full_batch) + ENTRY_COST
    for number in range(150):
        waiting = Counter(sequence.tenant for sequence in house.scheduler.waiting)
        for tenant, shape in shapes.items():
            for _ in range(max_rows + 1 - waiting[tenant]):
                house.add(tenant, *shape[number % len(shape)])
        house.step()
        assert abs(house.served["a"] - house.served["b"]) <= bound


def test_tenants_are_served_by_weight():
    house = House(weights={"key": 3.0})
    for _ in range(600):
        waiting = Counter(sequence.tenant for sequence in house.scheduler.waiting)
        for tenant in ("key:1", "user:1"):
            for _ in range(5 - waiting[tenant]):
                house.add(tenant)
        house.step()
    assert house.served["key:1"] / house.served["user:1"] == pytest.approx(3, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=20), st.integers(1, 6))
def test_a_lone_tenant_has_every_row_while_it_has_requests(shapes, max_rows):
    house = House(max_rows)
    for shape in shapes:
        house.add("a", *shape)
    while house.scheduler.waiting:
        before = set(house.scheduler.running)
        num_live = len(before) + len(house.scheduler.waiting)
        assert len(before | set(house.step().admitted)) == min(max_rows, num_live)
        assert all(runner.num_displaced == 0 for runner in house.scheduler.running)


@pytest.mark.parametrize("num_before", [5, 200])
def test_however_many_wait_of_one_tenant_the_others_first_request_is_next(num_before):
    house = House(max_rows=4)
    for _ in range(num_before):
        house.add("flood", limit=50)
    house.step()
    late = house.add("late")
    admitted = house.step().admitted
    assert late in admitted
    assert len(admitted) <= 2


def test_a_newcomer_starts_though_the_pass_before_was_interrupted():
    house = House(max_rows=4)
    for _ in range(10):
        house.add("flood", limit=50)
    house.step()
    house.scheduler.schedule()
    late = house.add("late")
    assert late in house.scheduler.schedule().admitted
    assert house.running == {"flood": 3, "late": 1}


def test_a_tenant_that_has_a_row_waits_for_its_next_one():
    house = House(max_rows=4)
    for _ in range(10):
        house.add("flood", limit=50)
    house.step()
    first, second = house.add("late", limit=50), house.add("late", limit=50)
    for _ in range(5):
        house.step()
    assert (first.state, second.state) == (State.RUNNING, State.WAITING)
    assert house.running == {"flood": 3, "late": 1}


def test_nobody_with_a_single_row_is_displaced():
    house = House(max_rows=3)
    for tenant in "abc":
        house.add(tenant, limit=50)
    house.step()
    late = house.add("late")
    house.step()
    assert late.state is State.WAITING
    assert house.running == {"a": 1, "b": 1, "c": 1}


def test_no_sequence_is_displaced_for_ever():
    house = House(max_rows=2)
    flood = [house.add("flood", limit=40), house.add("flood", limit=40)]
    for number in range(200):
        if sum(sequence.tenant != "flood" for sequence in house.scheduler.waiting) < 2:
            house.add(f"newcomer-{number}", limit=3)
        house.step()
        assert all(sequence.num_displaced <= MAX_DISPLACED for sequence in flood)
    assert {sequence.state for sequence in flood} == {State.FINISHED}
    assert sum(sequence.num_displaced for sequence in flood) > 0


def test_what_was_displaced_goes_on_with_the_tokens_it_had_and_is_charged_once():
    house = House(max_rows=2)
    flood = [house.add("flood", prompt=40, limit=30) for _ in range(2)]
    for _ in range(5):
        house.step()
    tokens = {sequence: list(sequence.output_ids) for sequence in flood}
    house.add("late", prompt=5, limit=3)
    house.step()
    [victim] = [sequence for sequence in flood if sequence.state is State.WAITING]
    assert (victim.num_computed, victim.block_table, victim.num_displaced) == (0, (), 1)
    while house.scheduler.running or house.scheduler.waiting:
        house.step()
    assert victim.output_ids[: len(tokens[victim])] == tokens[victim]
    assert house.served["flood"] == 2 * 40 + 2 * 2 * 30
    assert house.scheduler.priority.fairness.tenants["flood"] == house.served["flood"] + ENTRY_COST


def test_chat_starts_before_evaluation_that_came_earlier():
    house = House(max_rows=1)
    evaluation, chat = house.add("a", queue_class="evaluation"), house.add("b")
    assert house.step().admitted == (chat,)
    assert evaluation.state is State.WAITING


@pytest.mark.parametrize(
    ("resource", "house"),
    [
        ("row", House(max_rows=2)),
        ("blocks", House(max_rows=8, num_blocks=4)),
        ("slot", House(max_rows=8, num_slots=2)),
    ],
)
def test_evaluation_gives_its_place_to_chat(resource, house):
    own = [house.add("a", digest=digest, limit=50, queue_class="evaluation") for digest in "AB"]
    house.step()
    chat = house.add("a", prompt=40, digest="C", limit=3)
    house.step()
    assert chat.state is State.RUNNING
    assert sum(sequence.state is State.RUNNING for sequence in own) == 1
    while house.scheduler.running or house.scheduler.waiting:
        house.step()
    assert [len(sequence.output_ids) for sequence in own] == [50, 50]


def test_evaluation_is_not_starved_by_chats_that_never_end_coming():
    house = House(max_rows=2)
    evaluations = [house.add("e", limit=30, queue_class="evaluation") for _ in range(3)]
    chats = 0
    while any(evaluation.state is not State.FINISHED for evaluation in evaluations):
        for _ in range(6 - len(house.scheduler.waiting)):
            house.add("c", limit=5)
        chats += sum(sequence.tenant == "c" for sequence in house.step().admitted)
        assert chats < 3 * (MAX_DISPLACED + 1) * (EVALUATION_PATIENCE + 30)


def test_capacity_for_chat_does_not_see_evaluation():
    house = House(max_rows=4)
    for _ in range(4 + LOOK_AHEAD):
        house.add("e", limit=50, queue_class="evaluation")
    house.step()
    assert house.scheduler.capacity == Capacity(0, 4 + LOOK_AHEAD, NEWCOMERS, idle=-LOOK_AHEAD)


def test_a_flood_leaves_capacity_for_newcomers_and_they_are_bounded():
    house = House(max_rows=4)
    for _ in range(4 + LOOK_AHEAD):
        house.add("flood", limit=50)
    house.step()
    assert house.scheduler.capacity == Capacity(0, 0, NEWCOMERS, idle=-LOOK_AHEAD)
    number = 0
    while house.scheduler.capacity:
        house.add(f"newcomer-{number}", limit=50)
        number += 1
    assert number == NEWCOMERS


def test_a_long_prompt_of_one_tenant_does_not_hold_up_anothers_short_one():
    house = House(max_rows=4, num_blocks=400)
    for _ in range(3):
        house.add("a", prompt=2000)
    house.step()
    late = house.add("b", prompt=20)
    house.step()
    assert len(late.output_ids) == 1


def test_of_those_who_read_the_oldest_is_never_put_off():
    house = House(max_rows=8, num_blocks=400)
    old = house.add("a", prompt=640, limit=1)
    for step_number in range(20):
        for _ in range(8 - len(house.scheduler.running) - len(house.scheduler.waiting)):
            house.add(f"b-{step_number}", prompt=256, limit=1)
        house.step()
    assert old.state is State.FINISHED


@pytest.mark.parametrize("taken", range(9))
def test_capacity_is_taken_from_the_widest_kind_first(taken):
    left = Capacity(3, 2, 4).less(taken)
    assert (left.total, left.chat, left.newcomers) == (
        max(0, 3 - taken),
        min(2, max(0, 5 - taken)),
        min(4, max(0, 9 - taken)),
    )
    assert bool(left) == (taken < 9)
