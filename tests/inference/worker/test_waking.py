"""When a worker asks for requests, and what it counts of those that it is given."""

from __future__ import annotations

import asyncio

from inference.wire.contract import Claim
from inference.wire.protocol import AdapterRef, ClaimCounts, Generate, Probe
from inference.worker.tally import Tally
from inference.worker.waking import Alarm, Stopwatch


async def test_an_alarm_rings_for_the_earliest_of_its_times_and_then_no_more():
    alarm = Alarm()
    alarm.set(3600)
    alarm.set(0.01)
    alarm.set(7200)
    async with asyncio.timeout(5):
        await alarm.wait(1800)
    alarm.set(3600)
    waiting = asyncio.create_task(alarm.wait(1800))
    await asyncio.sleep(0.05)
    assert not waiting.done(), "it rang for what was set before"
    alarm.set()
    await asyncio.wait_for(waiting, 5)


async def test_an_alarm_that_was_set_meanwhile_rings_at_once_and_none_later_than_asked():
    alarm = Alarm()
    alarm.set()
    async with asyncio.timeout(5):
        await alarm.wait(3600)
        await alarm.wait(0.01)


def test_a_stopwatch_begins_when_it_is_so_and_ends_when_it_is_not():
    watch = Stopwatch()
    assert watch.seconds == 0
    watch.note(True)
    first = watch.seconds
    watch.note(True)
    assert watch.seconds >= first
    watch.note(False)
    assert watch.seconds == 0


def claim_of(digest: str, is_stolen: bool = False, is_probe: bool = False) -> Claim:
    adapter = AdapterRef(digest)
    request = Probe("a", adapter) if is_probe else Generate("a", adapter if digest else None, prompt="hi")
    return Claim("a", request, "token", 1, None, 0, "fp", 10.0, is_stolen=is_stolen)


def test_claims_are_counted_by_what_the_worker_holds_and_by_what_is_on_its_way():
    tally = Tally()
    tally.count(claim_of("aa"), held=["aa"], running=[])
    tally.count(claim_of("bb"), held=["aa"], running=[])
    tally.count(claim_of("bb", is_stolen=True), held=["aa"], running=[claim_of("bb")])
    tally.count(claim_of("", is_stolen=True), held=["aa"], running=[claim_of("")])
    tally.count(claim_of("cc", is_probe=True), held=[], running=[])
    assert tally.counts == ClaimCounts(hits=2, misses=1, stolen=2)
