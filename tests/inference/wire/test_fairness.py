"""Virtual token counters: nobody who waits falls behind, nobody saves up, nobody is remembered for nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.wire.fairness import ENTRY_COST, Fairness, VirtualCounters


def test_a_newcomer_begins_where_the_least_served_of_those_who_wait_stands():
    counters = VirtualCounters()
    counters.enter("a")
    counters.enter("b")
    counters.charge("a", 500)
    counters.charge("b", 300)
    counters.enter("new")
    assert counters["new"] == counters["b"] + ENTRY_COST


def test_who_waits_again_after_it_ran_pays_no_entry():
    counters = VirtualCounters()
    counters.enter("a")
    counters.leave("a")
    counters.enter("a", again=True)
    assert counters["a"] == ENTRY_COST


def test_with_nobody_waiting_a_newcomer_begins_where_the_last_one_stands():
    counters = VirtualCounters()
    counters.enter("a")
    counters.leave("a")
    counters.charge("a", 700)
    counters.enter("new")
    assert counters["new"] == counters["a"] + ENTRY_COST


def test_who_had_more_than_its_share_keeps_it_on_record():
    counters = VirtualCounters()
    counters.enter("a")
    counters.enter("b")
    counters.leave("a")
    counters.charge("a", 900)
    counters.enter("a")
    assert (counters["a"], counters["b"]) == (900 + ENTRY_COST, 2 * ENTRY_COST)


def test_weight_divides_service_and_may_be_that_of_a_kind():
    counters = VirtualCounters({"key": 4.0, "key:7": 0.5})
    for party in ("key:1", "key:7", "user:1"):
        counters.charge(party, 100)
    assert [counters[party] for party in ("key:1", "key:7", "user:1")] == [25, 200, 100]


def test_passing_strangers_leave_no_trace():
    counters = VirtualCounters()
    for number in range(1000):
        counters.enter(f"session:{number}")
        counters.leave(f"session:{number}")
        counters.charge(f"session:{number}", 10)
    assert len(counters) <= 2


def test_within_a_tenant_the_least_served_adapter_is_first():
    fairness = Fairness()
    for digest in ("A", "B"):
        fairness.enter("t", digest)
    fairness.charge("t", "A", inputs=10, outputs=5)
    assert fairness.served("t", "A") == (20 + ENTRY_COST, 20 + ENTRY_COST)
    assert fairness.served("t", "B") == (20 + ENTRY_COST, 2 * ENTRY_COST)


PARTIES = st.sampled_from("abcd")
moves = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "charge"]), PARTIES, st.integers(1, 500)), min_size=1, max_size=80
)


@settings(max_examples=200, deadline=None)
@given(moves)
def test_no_counter_falls_and_nobody_new_is_put_before_those_who_wait(operations):
    counters, waiting = VirtualCounters(), list[str]()
    for move, party, amount in operations:
        before = {party: counters[party] for party in "abcd"}
        if move == "charge":
            counters.charge(party, amount)
        elif move == "enter":
            lowest = min((before[party] for party in waiting), default=0.0)
            counters.enter(party)
            assert party in waiting or counters[party] >= lowest
            waiting.append(party)
        elif party in waiting:
            counters.leave(party)
            waiting.remove(party)
        assert all(counters[party] >= before[party] for party in "abcd")
    assert dict(counters.waiting) == {party: waiting.count(party) for party in set(waiting)}
