"""Work that was begun elsewhere: what the scheduler promises of fresh prompts holds for takeovers of like answers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.plan import Plan
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.scheduler import Scheduler
from inference.scheduling.sequence import Sequence, State
from inference.scheduling.slot_turns import PATIENCE
from inference.tile import TILE
from inference.wire.protocol import QueueClass
from tests.inference.scheduling.test_scheduler import CountingSlots

BLOCK = 32
MORE = 6
"""Tokens that are still to come of each answer."""
MOST_PASSES = 20_000
"""A hang, not a bar: a hundredth of it is what the longest of these takes."""

Takeover = tuple[int, int, int, str, str]
"""Which text, tokens of the prompt, tokens generated elsewhere, tenant and adapter."""

takeovers = st.tuples(
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([20, 32, 40, 64, 70, 96, 120]),
    st.sampled_from([0, 0, 5, 30, 100]),
    st.sampled_from(["t0", "t1", "t2"]),
    st.sampled_from(["", "", "", "A", "B"]),
)


def make(*, rows_are_uniform: bool, num_blocks: int = 64, prefill_tokens: int = 256) -> Scheduler:
    pool = BlockPool(num_blocks, BLOCK)
    prefixes = PrefixCache(pool, TILE, rows_are_uniform=rows_are_uniform)
    return Scheduler(pool, CountingSlots(2), 8, prefill_tokens, prefixes)


def take_over(scheduler: Scheduler, number: int, takeover: Takeover) -> None:
    """Add a sequence of which another worker has generated some tokens: prompt and answer are one text."""
    text, prompt, generated, tenant, digest = takeover
    tokens = tuple(range(1000 * text, 1000 * text + prompt + generated))
    outputs = list(tokens[prompt:])
    scheduler.add(Sequence(f"{number}", tokens[:prompt], generated + MORE, digest, output_ids=outputs, tenant=tenant))


def step(scheduler: Scheduler) -> None:
    """Run a pass, in which every sampled sequence gets the next token of its text."""
    plan = scheduler.schedule()
    check(scheduler, plan)
    scheduler.advance(plan)
    for sequence in [work.sequence for work in plan.works if work.is_sampled]:
        sequence.output_ids.append(sequence.prompt_ids[0] + sequence.num_tokens)
        if len(sequence.output_ids) == sequence.max_tokens:
            scheduler.finish(sequence)
    for sequence in (*scheduler.running, *scheduler.waiting):
        sequence.check()


def check(scheduler: Scheduler, plan: Plan) -> None:
    """Assert what holds for every plan, whoever is in it."""
    assert bool(plan.works) == bool(scheduler.running), "while anybody runs a pass computes something"
    assert plan.works or not plan.copies, "copies are made before a pass: one that computes nothing makes none"
    assert all(work.start >= work.sequence.num_prompt for work in plan.decodes)
    assert all(work.start + work.length <= work.sequence.num_prompt for work in plan.tiles)
    users = Counter(block for runner in scheduler.running for block in runner.block_table)
    reached = {runner.id: runner.num_computed for runner in scheduler.running}
    for work in plan.works:
        sequence = work.sequence
        assert sequence.state is State.RUNNING
        assert work.start == reached[sequence.id], "what is computed next is the next that is missing"
        reached[sequence.id] += work.length
        written = sequence.block_table[work.start // BLOCK : -(-reached[sequence.id] // BLOCK)]
        assert work.length > 0
        assert len(written) == -(-reached[sequence.id] // BLOCK) - work.start // BLOCK
        assert all(users[block] == 1 for block in written), "what others read is not written"


def run(scheduler: Scheduler) -> None:
    for _ in range(MOST_PASSES):
        if not (scheduler.running or scheduler.waiting):
            break
        step(scheduler)
    assert not [*scheduler.running, *scheduler.waiting], "every answer comes to its end"
    assert scheduler.pool.num_free == scheduler.pool.num_blocks


@pytest.mark.parametrize("rows_are_uniform", [True, False])
def test_a_prompt_that_another_s_replay_has_passed_is_replayed_in_the_same_pass(rows_are_uniform: bool) -> None:
    scheduler = make(rows_are_uniform=rows_are_uniform, prefill_tokens=256 if rows_are_uniform else TILE)
    uniform = [(20, 100, "t0"), (70, 0, "t0"), (40, 0, "t1"), (20, 30, "t0"), (70, 0, "t1")]
    alike = uniform if rows_are_uniform else [(64, 12, "t0"), (64, 30, "t1"), (20, 0, "t1")]
    for number, (prompt, generated, tenant) in enumerate(alike):
        take_over(scheduler, number, (0, prompt, generated, tenant, ""))
    run(scheduler)


@pytest.mark.parametrize("rows_are_uniform", [True, False])
def test_a_prompt_of_whole_blocks_that_a_neighbour_has_read_is_not_read_again(rows_are_uniform: bool) -> None:
    scheduler = make(rows_are_uniform=rows_are_uniform, prefill_tokens=TILE)
    for number in range(3):
        take_over(scheduler, number, (0, 2 * BLOCK, 5, "t0", ""))
    num_tiles = 0
    while scheduler.running or scheduler.waiting:
        plan = scheduler.schedule()
        num_tiles += len(plan.tiles)
        check(scheduler, plan)
        scheduler.advance(plan)
        for work in plan.works:
            if work.is_sampled:
                scheduler.finish(work.sequence)
    assert num_tiles == 2


def test_turns_that_passed_while_it_ran_do_not_hurry_others_when_it_waits_again() -> None:
    """An evaluation that was displaced is not owed the slots of all the time in which it had one."""
    scheduler = Scheduler(BlockPool(64, BLOCK), CountingSlots(2), 3, 256)

    def add(id: str, digest: str, limit: int = 1000, queue_class: QueueClass = "chat") -> Sequence:
        sequence = Sequence(id, (1, 2, 3), limit, digest, tenant=id, queue_class=queue_class)
        scheduler.add(sequence)
        step(scheduler)
        return sequence

    begun = add("evaluation", "A", queue_class="evaluation")
    for number in range(3 * PATIENCE):
        add(f"turn {number}", f"{number}", limit=1)
    chats = [add(f"chat {number}", "") for number in range(3)]
    assert (begun.state, begun.num_displaced) == (State.WAITING, 1)
    late = add("late", "B")
    scheduler.finish(chats[0])
    step(scheduler)
    assert (late.state, begun.state) == (State.RUNNING, State.WAITING)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(st.tuples(takeovers, st.sampled_from([0, 0, 0, 1, 2])), min_size=4, max_size=20),
    st.booleans(),
    st.sampled_from([12, 64]),
    st.sampled_from([1, 2, 8]),
)
def test_takeovers_of_like_answers_keep_every_promise(
    arrivals: list[tuple[Takeover, int]], rows_are_uniform: bool, num_blocks: int, num_tiles: int
) -> None:
    scheduler = make(rows_are_uniform=rows_are_uniform, num_blocks=num_blocks, prefill_tokens=num_tiles * TILE)
    for number, (takeover, passes) in enumerate(arrivals):
        take_over(scheduler, number, takeover)
        for _ in range(passes):
            step(scheduler)
    run(scheduler)
