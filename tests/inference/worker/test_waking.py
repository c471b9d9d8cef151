"""When a worker asks for requests, and what it counts of those that it is given."""

from __future__ import annotations

import asyncio
from collections import Counter
from hashlib import sha1
from string import ascii_letters
from typing import Any

from inference.wire.affinity import short
from inference.wire.contract import Claim, Claims
from inference.wire.protocol import AdapterRef, ClaimCounts, Generate, Probe
from inference.worker import worker as worker_module
from inference.worker.tally import Tally
from inference.worker.waking import Alarm, Stopwatch
from inference.worker.worker import Worker, WorkerConfig
from tests.inference.fake_engine import FakeEngine
from tests.inference.wire.memory_wire import MemoryWire
from tests.patience import PATIENCE


async def test_an_alarm_rings_for_the_earliest_of_its_times_and_then_no_more():
    alarm = Alarm()
    alarm.set(3600)
    alarm.set(0.01)
    alarm.set(7200)
    async with asyncio.timeout(PATIENCE):
        await alarm.wait(1800)
    alarm.set(3600)
    waiting = asyncio.create_task(alarm.wait(1800))
    await asyncio.sleep(0.05)
    assert not waiting.done(), "it rang for what was set before"
    alarm.set()
    await asyncio.wait_for(waiting, PATIENCE)


async def test_an_alarm_that_was_set_meanwhile_rings_at_once_and_none_later_than_asked():
    alarm = Alarm()
    alarm.set()
    async with asyncio.timeout(PATIENCE):
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


class CountingWire(MemoryWire):
    """Counts who asks for requests, and how often."""

    def __init__(self) -> None:
        super().__init__(patience=3600.0)
        self.asked: Counter[str] = Counter()

    async def claim(self, base: str, worker: str, *more: Any) -> Claims:
        self.asked[worker] += 1
        return await super().claim(base, worker, *more)


async def test_who_is_not_meant_does_not_ask(monkeypatch):
    monkeypatch.setattr(worker_module, "POLL_SECONDS", 3600.0)
    wire, engines = CountingWire(), {name: FakeEngine() for name in ("w1", "w2")}
    workers = [Worker(wire, lambda n=name: engines[n], WorkerConfig("tiny", name)) for name in engines]
    serving = [asyncio.create_task(worker.run()) for worker in workers]
    async with asyncio.timeout(PATIENCE):
        while sum(beat.ready for beat in await wire.heartbeats("tiny")) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    before, adapter = wire.asked["w2"], AdapterRef(of_first("w1"))
    for number in range(10):
        await wire.submit(Generate(f"g{number}", adapter, prompt="hi", tenant="t"), "tiny", "chat", 100)
        async with asyncio.timeout(PATIENCE):
            assert [event async for _, event in wire.events(f"g{number}")]
    assert wire.asked["w2"] == before
    assert workers[0]._tally.counts == ClaimCounts(misses=10), "this engine never says that it holds one"
    for worker in workers:
        worker.close()
    assert await asyncio.gather(*serving) == [0, 0]


def of_first(worker: str) -> str:
    """An adapter that is at home with `worker`."""

    def home(digest: str) -> str:
        return max(("w1", "w2"), key=lambda name: sha1(f"{name} {short(digest)}".encode()).hexdigest())

    return next(digest for digest in (letter * 64 for letter in ascii_letters) if home(digest) == worker)
