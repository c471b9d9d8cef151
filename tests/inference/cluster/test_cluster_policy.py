"""When a pool grows or shrinks, and the sentence that says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference.cluster.policy import LOOKS, Bounds, Measures, Trend, decide
from inference.wire.waiting import Waiting

BOUNDS = Bounds(low=1, high=4, up_seconds=2.0, down_seconds=60.0)
IDLE = Measures(ready=2, rows=64, slots=64)
SLOW = replace(IDLE, running=64, waiting=Waiting(9, oldest_seconds=3.5, sampled=9))


def followed(measures: Measures, wanted: int = 2, looks: int = 1, every: float = 1.0, bounds: Bounds = BOUNDS):
    """The decisions of as many looks, one after another, that all find the same."""
    trend, decisions = Trend(), []
    for look in range(looks):
        decision, trend = decide(wanted, bounds, trend, measures, 100 + look * every)
        wanted = decision.wanted
        decisions.append(decision)
    return decisions


def test_requests_that_wait_too_long_in_several_looks_make_it_grow_by_one() -> None:
    *before, last = followed(SLOW, looks=LOOKS)
    assert [decision.wanted for decision in before] == [2] * (LOOKS - 1)
    assert last.wanted == 3
    assert last.reason == "the oldest of 9 requests had waited for 3.5 s, longer than the 2 s of SCALE_UP_SECONDS"


def test_one_slow_look_among_quick_ones_changes_nothing() -> None:
    trend, wanted = Trend(), 2
    for look in range(12):
        decision, trend = decide(wanted, BOUNDS, trend, SLOW if look % LOOKS else IDLE, look)
        assert decision.wanted == wanted


def test_a_short_wait_is_no_reason_and_a_shorter_one_is_where_one_adapter_has_most_of_those_that_wait() -> None:
    short = replace(SLOW, waiting=Waiting(9, oldest_seconds=1.5, sampled=9, hottest="a" * 64, hottest_number=2))
    hot = replace(short, waiting=replace(short.waiting, hottest_number=8))
    assert followed(short, looks=9)[-1].wanted == 2
    assert followed(hot, looks=LOOKS)[-1].reason == (
        "the oldest of 9 requests had waited for 1.5 s, and 8 of 9 ask for the adapter aaaaaaaaaaaa"
    )


def test_adapters_that_change_places_too_fast_make_it_grow() -> None:
    [decision] = followed(replace(IDLE, running=40, reloads=80))
    assert (decision.wanted, decision.reason) == (
        3,
        "80 adapters came back to the device within a minute, more than its 64 slots hold in peace",
    )


def test_it_rests_after_a_change_and_waits_while_a_replica_loads() -> None:
    wanted = [decision.wanted for decision in followed(SLOW, looks=20)]
    assert wanted.index(4) - wanted.index(3) >= 10
    assert followed(replace(SLOW, starting=1), looks=20)[-1].wanted == 2


def test_it_stays_within_its_bounds() -> None:
    assert followed(SLOW, wanted=4, looks=60)[-1].wanted == 4
    assert followed(IDLE, wanted=1, looks=600)[-1].wanted == 1
    [decision] = followed(IDLE, wanted=7)
    assert (decision.wanted, decision.reason) == (4, "the bounds are 1 to 4 replicas")


def test_it_shrinks_by_one_when_it_has_been_idle_for_a_while() -> None:
    decisions = followed(IDLE, wanted=3, looks=62)
    assert [decision.wanted for decision in decisions[:60]] == [3] * 60
    assert next(decision.reason for decision in decisions if decision.reason) == (
        "nobody has waited for 60 s, and nothing runs"
    )


def test_it_shrinks_only_where_one_less_has_room_to_spare_for_what_runs() -> None:
    few, many = replace(IDLE, running=10), replace(IDLE, running=30)
    assert followed(many, looks=200)[-1].wanted == 2
    reason = next(decision.reason for decision in followed(few, looks=62) if decision.reason)
    assert reason == "nobody has waited for 60 s, and 1 of 2 replicas have room for the 10 answers that ran"


@pytest.mark.parametrize("low", [0, 1])
def test_a_pool_that_may_be_empty_is_empty_until_somebody_asks(low: int) -> None:
    bounds = replace(BOUNDS, low=low)
    assert followed(replace(IDLE, ready=1, rows=32), wanted=1, looks=70, bounds=bounds)[-1].wanted == low
    asked = Measures(waiting=Waiting(1, oldest_seconds=3.0, sampled=1))
    assert followed(asked, wanted=low, looks=LOOKS, bounds=bounds)[-1].wanted == low + 1
