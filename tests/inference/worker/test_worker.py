"""The worker between a wire in memory and an engine without a model."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from inference.wire.capacity import Capacity
from inference.wire.contract import ALONE_ATTEMPTS, SUSPECT_AFTER, Claim, Receipt, Resume, WireError
from inference.wire.protocol import (
    AdapterRef,
    Delta,
    Failed,
    Finished,
    Generate,
    Probe,
    Progress,
    Sampling,
    TokenWeights,
)
from inference.worker import device_thread
from inference.worker.outbox import Outbox
from inference.worker.retry import Retry
from inference.worker.running import Running, coalesce
from inference.worker.worker import Worker, WorkerConfig
from tests.inference.fake_engine import FakeEngine, text_of
from tests.inference.wire.memory_wire import MemoryWire
from tests.patience import PATIENCE

BASE = "tiny"


class FlakyWire(MemoryWire):
    """A wire whose server can be away, and whose replies can be lost after the deed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.lose_replies = 0

    async def append_all(self, writes):
        self._check()
        receipts = await super().append_all(writes)
        if self.lose_replies:
            self.lose_replies -= 1
            raise WireError("the reply was lost")
        return receipts

    async def renew(self, claims):
        self._check()
        return await super().renew(claims)

    async def claim(self, *args):
        self._check()
        return await super().claim(*args)

    def _check(self) -> None:
        if self.is_away:
            raise WireError("nobody answers")


@pytest.fixture
def wire() -> FlakyWire:
    return FlakyWire()


@asynccontextmanager
async def serving(wire, make: Callable = FakeEngine, name="w1", lease=10.0) -> AsyncIterator[Worker]:
    worker = Worker(wire, make, WorkerConfig(BASE, name, lease))
    task = asyncio.create_task(worker.run())
    yield worker
    worker.close()
    assert await asyncio.wait_for(task, PATIENCE) in (0, 1)


async def ask(wire, id, num_tokens=20, prompt="hi") -> None:
    await wire.submit(Generate(id, prompt=prompt, sampling=Sampling(max_tokens=num_tokens)), BASE, "chat", 1000)


async def answer(wire, id) -> tuple[str, Finished | Failed]:
    async with asyncio.timeout(PATIENCE):
        events = [event async for _, event in wire.events(id)]
    return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def has_streamed(wire, id) -> None:
    async with asyncio.timeout(PATIENCE):
        async for _, event in wire.events(id):
            if isinstance(event, Delta):
                return


async def test_an_answer_is_streamed_whole(wire):
    async with serving(wire):
        await ask(wire, "a")
        text, end = await answer(wire, "a")
    assert (text, end.reason, end.stats.takeovers) == (text_of(20), "length", 0)
    assert (await wire.history("a"))[0] == ("1-0", Progress("a", "claimed"))


async def test_more_requests_than_room_are_all_served(wire):
    ids = [f"g{index}" for index in range(40)]
    for id in ids:
        await ask(wire, id, 5)
    async with serving(wire, lambda: FakeEngine(capacity=3)):
        answers = await asyncio.gather(*(answer(wire, id) for id in ids))
    assert {text for text, _ in answers} == {text_of(5)}


async def test_the_engine_is_never_given_more_than_its_room(wire):
    engine = FakeEngine(capacity=3)
    add, most = engine.add, []

    def count(*args):
        add(*args)
        most.append(len(engine._running))

    engine.add = count
    for index in range(12):
        await ask(wire, f"g{index}", 3)
    async with serving(wire, lambda: engine):
        await asyncio.gather(*(answer(wire, f"g{index}") for index in range(12)))
    assert max(most) == 3


async def test_later_pieces_are_written_together(wire):
    async with serving(wire, lambda: FakeEngine(step_seconds=0.0005)):
        await ask(wire, "a", 300)
        text, _ = await answer(wire, "a")
    deltas = [event for _, event in await wire.history("a") if isinstance(event, Delta)]
    assert text == text_of(300)
    assert tuple(token for delta in deltas for token in delta.token_ids) == tuple(range(300))
    assert len(deltas) < 150


async def test_a_stop_ends_the_answer_and_frees_the_engine(wire):
    engine = FakeEngine()
    async with serving(wire, lambda: engine):
        await ask(wire, "a", 100_000)
        await has_streamed(wire, "a")
        await wire.stop("a")
        text, end = await answer(wire, "a")
        assert (end.reason, text) == ("stopped", text_of(len(text.split())))
        await until(lambda: not engine.has_work)


async def test_a_stop_that_was_not_heard_is_seen_at_the_next_write(wire):
    wire._publish = lambda channel, id: None
    async with serving(wire):
        await ask(wire, "a", 100_000)
        await has_streamed(wire, "a")
        await wire.stop("a")
        assert (await answer(wire, "a"))[1].reason == "stopped"


async def test_a_worker_that_closes_gives_its_answers_to_another(wire):
    async with serving(wire, name="w1") as worker:
        await ask(wire, "a", 300)
        await has_streamed(wire, "a")
        worker.close()
        await until(lambda: wire._requests["a"].token == "")
        async with serving(wire, name="w2"):
            text, end = await answer(wire, "a")
    assert (text, end.stats.takeovers) == (text_of(300), 0)


async def test_a_worker_that_drains_takes_nothing_new_and_finishes_what_it_has(wire):
    async with serving(wire, lambda: FakeEngine(step_seconds=0.01), name="leaving") as leaving:
        await ask(wire, "a", 30)
        await has_streamed(wire, "a")
        leaving.drain(60)
        beat = await has_beaten(wire, ready=False)
        assert beat.draining
        await ask(wire, "b", 5)
        assert (await answer(wire, "a"))[0] == text_of(30)
        await until(lambda: not wire._heartbeats)
    assert await wire.queue_length(BASE) == 1
    async with serving(wire, name="staying"):
        assert (await answer(wire, "b"))[0] == text_of(5)


async def test_what_is_just_being_claimed_when_a_worker_drains_is_answered(wire, monkeypatch):
    async with serving(wire, name="leaving") as leaving:
        await has_beaten(wire, ready=True)
        claim, is_claiming = wire.claim, asyncio.Event()

        async def slow(*args, **more):
            claims = await claim(*args, **more)
            if claims:
                is_claiming.set()
                await asyncio.sleep(0.3)
            return claims

        monkeypatch.setattr(wire, "claim", slow)
        await ask(wire, "a", 5)
        await asyncio.wait_for(is_claiming.wait(), PATIENCE)
        leaving.drain(60)
        assert (await answer(wire, "a"))[0] == text_of(5)


async def test_what_a_drain_has_no_time_for_goes_on_at_another(wire):
    async with serving(wire, name="leaving") as leaving:
        await ask(wire, "a", 300)
        await has_streamed(wire, "a")
        leaving.drain(0.05)
        await until(lambda: wire._requests["a"].token == "")
        async with serving(wire, name="staying"):
            text, end = await answer(wire, "a")
    assert (text, end.stats.takeovers) == (text_of(300), 0)


async def test_a_worker_that_is_asked_to_drain_again_closes_at_once(wire):
    async with serving(wire) as worker:
        await ask(wire, "a", 100_000)
        await has_streamed(wire, "a")
        worker.drain(60)
        worker.drain(60)
        await until(lambda: wire._requests["a"].token == "")


async def test_a_worker_that_closes_takes_its_heartbeat_away(wire):
    async with serving(wire):
        await has_beaten(wire, ready=True)
    assert await wire.heartbeats(BASE) == []


async def test_an_idle_worker_says_that_nothing_runs(wire, monkeypatch):
    """What it told while it was busy is not what it goes on telling when the last answer has ended."""
    monkeypatch.setattr(device_thread, "LOAD_SECONDS", 0.0)
    async with serving(wire) as worker:
        await ask(wire, "a", 100_000)
        await until(lambda: worker._heartbeat().load.running == 1)
        monkeypatch.setattr(device_thread, "LOAD_SECONDS", float("inf"))
        await wire.stop("a")
        await answer(wire, "a")
        await until(lambda: not worker._running)
        assert worker._heartbeat().load.running == 0


async def test_a_worker_closes_though_a_call_misses_its_cancellation(wire, monkeypatch):
    beat, missed = wire.beat, []

    async def hard_of_hearing(heartbeat, ttl):
        await beat(heartbeat, ttl)
        if heartbeat.ready and not missed:
            missed.append(heartbeat)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    monkeypatch.setattr(wire, "beat", hard_of_hearing)
    async with serving(wire):
        await has_beaten(wire, ready=True)
    assert missed
    assert await wire.heartbeats(BASE) == []


async def has_beaten(wire, ready: bool):
    async with asyncio.timeout(PATIENCE):
        while True:
            beats = await wire.heartbeats(BASE)
            if [beat.ready for beat in beats] == [ready]:
                return beats[0]
            await asyncio.sleep(0.005)


async def test_a_heartbeat_tells_when_the_model_is_loaded(wire):
    loading = threading.Event()

    def load():
        assert loading.wait(PATIENCE)
        return FakeEngine("fp")

    async with serving(wire, load):
        assert (await has_beaten(wire, ready=False)).fingerprint == ""
        await ask(wire, "a")
        loading.set()
        assert (await has_beaten(wire, ready=True)).fingerprint == "fp"
        assert (await answer(wire, "a"))[0] == text_of(20)


async def test_a_worker_closes_while_it_loads(wire):
    loading = threading.Event()
    worker = Worker(wire, loading.wait, WorkerConfig(BASE, "w"))
    task = asyncio.create_task(worker.run())
    await has_beaten(wire, ready=False)
    worker.close()
    with set_at_last(loading):
        assert await asyncio.wait_for(task, PATIENCE) == 0


@contextlib.contextmanager
def set_at_last(waited_for: threading.Event) -> Iterator[None]:
    """What a thread waits for, and nobody else may wait for the thread, is set when the block ends."""
    try:
        yield
    finally:
        waited_for.set()


async def test_an_engine_that_cannot_be_made_ends_the_worker(wire):
    def load():
        raise OSError("no such model")

    assert await asyncio.wait_for(Worker(wire, load, WorkerConfig(BASE, "w")).run(), PATIENCE) == 1


@asynccontextmanager
async def supervised(wire, make: Callable = FakeEngine) -> AsyncIterator[list[int]]:
    """A worker that is started again whenever it ends; what each that ended came to."""
    ends: list[int] = []
    workers: list[Worker] = []

    async def supervise() -> None:
        while not (ends and ends[-1] == 0):
            workers.append(Worker(wire, make, WorkerConfig(BASE, f"w{len(ends)}")))
            ends.append(await workers[-1].run())

    task = asyncio.create_task(supervise())
    yield ends
    workers[-1].close()
    await asyncio.wait_for(task, PATIENCE)


async def test_a_request_that_breaks_the_device_fails_when_it_has_been_alone_with_five(wire):
    await ask(wire, "a", prompt="explode")
    for attempt in range(SUSPECT_AFTER + ALONE_ATTEMPTS):
        assert await asyncio.wait_for(Worker(wire, FakeEngine, WorkerConfig(BASE, f"w{attempt}")).run(), PATIENCE) == 1
    async with serving(wire):
        text, end = await answer(wire, "a")
    assert (text, end.code) == ("", "worker_lost")


async def test_the_neighbours_of_a_request_that_breaks_the_device_are_answered(wire):
    ids = [f"g{index}" for index in range(14)]
    for number, id in enumerate(ids):
        await ask(wire, id, 30, prompt="explode" if number == 5 else "hi")
    async with supervised(wire) as ends:
        answers = dict(zip(ids, await asyncio.gather(*(answer(wire, id) for id in ids)), strict=True))
    assert sum(ends) == SUSPECT_AFTER + ALONE_ATTEMPTS
    text, end = answers.pop("g5")
    assert (text, end.code) == ("", "worker_lost")
    assert {(text, end.reason) for text, end in answers.values()} == {(text_of(30), "length")}


async def test_two_that_break_the_device_are_both_found(wire):
    prompts = {"a": "hi", "b": "explode", "c": "hi", "d": "explode", "e": "hi"}
    for id, prompt in prompts.items():
        await ask(wire, id, 30, prompt)
    async with supervised(wire) as ends:
        answers = {id: await answer(wire, id) for id in prompts}
    assert {id for id, (_, end) in answers.items() if isinstance(end, Failed)} == {"b", "d"}
    assert {text for text, end in answers.values() if isinstance(end, Finished)} == {text_of(30)}
    assert sum(ends) <= 2 * (SUSPECT_AFTER + ALONE_ATTEMPTS)


async def test_a_suspect_has_the_worker_to_itself_until_it_grows(wire):
    engine, beside = FakeEngine(step_seconds=0.002), list[set[str]]()
    advance = engine._advance

    def watch(id):
        beside.append(set(engine._running)) if id == "suspect" else None
        return advance(id)

    engine._advance = watch
    await ask(wire, "suspect", 20)
    for _ in range(SUSPECT_AFTER):
        [mine] = await wire.claim(BASE, "gone", "fake", Capacity(1), 10.0)
        await wire.release(mine, crashed=True)
    wire.is_away = True
    async with serving(wire, lambda: engine):
        await has_beaten(wire, ready=True)
        wire._requests["suspect"].deadline = float("inf")  # as if another had it, while these begin
        for id in ("a", "b"):
            await ask(wire, id, 500)
        wire.is_away = False
        await has_streamed(wire, "a")
        await has_streamed(wire, "b")
        wire._requests["suspect"].deadline = 0.0
        ends = [await answer(wire, id) for id in ("suspect", "a", "b")]
    assert beside[0] == {"suspect"}
    assert [(text, end.reason) for text, end in ends] == [(text_of(n), "length") for n in (20, 500, 500)]
    assert [end.stats.takeovers for _, end in ends] == [SUSPECT_AFTER, 0, 0]


async def test_a_device_that_hangs_ends_the_worker_and_gives_its_requests_back(wire):
    hung, woken = FakeEngine(), threading.Event()
    hung.step = lambda: woken.wait() and []
    worker = Worker(wire, lambda: hung, WorkerConfig(BASE, "w1", stall_seconds=0.2))
    await ask(wire, "a")
    with set_at_last(woken):
        assert await asyncio.wait_for(worker.run(), PATIENCE) == 1
    assert [claim.attempts for claim in await wire.claim(BASE, "w2", "fake", Capacity(1), 10.0)] == [2]


async def test_a_device_that_hangs_while_it_tells_its_load_ends_the_worker_too(wire, monkeypatch):
    hung, woken = FakeEngine(), threading.Event()
    monkeypatch.setattr(device_thread, "IDLE_SECONDS", 0.05)
    worker = Worker(wire, lambda: hung, WorkerConfig(BASE, "w1", stall_seconds=1.0))
    task = asyncio.create_task(worker.run())
    await has_beaten(wire, ready=True)
    monkeypatch.setattr(FakeEngine, "load", property(lambda _: woken.wait()))
    with set_at_last(woken):
        assert await asyncio.wait_for(task, PATIENCE) == 1


async def test_a_device_without_work_and_one_that_steps_do_not_count_as_hung(wire):
    worker = Worker(wire, lambda: FakeEngine(step_seconds=0.01), WorkerConfig(BASE, "w1", stall_seconds=2.0))
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(2.3)
    await ask(wire, "a", num_tokens=230)
    assert (await answer(wire, "a"))[1].reason == "length"
    worker.close()
    assert await asyncio.wait_for(task, PATIENCE) == 0


async def test_decoding_goes_on_while_the_wire_is_away(wire):
    engine = FakeEngine()
    async with serving(wire, lambda: engine):
        await ask(wire, "a", 200)
        await has_streamed(wire, "a")
        wire.is_away = True
        await until(lambda: not engine.has_work)
        assert not isinstance((await wire.history("a"))[-1][1], Finished)
        wire.is_away = False
        assert await answer(wire, "a") == (text_of(200), (await wire.history("a"))[-1][1])


async def test_a_lost_reply_doubles_nothing(wire):
    async with serving(wire):
        await ask(wire, "a", 200)
        await has_streamed(wire, "a")
        wire.lose_replies = 2
        text, end = await answer(wire, "a")
    assert (text, end.reason) == (text_of(200), "length")


async def test_a_lost_lease_aborts_and_writes_nothing_more(wire):
    engine = FakeEngine()
    async with serving(wire, lambda: engine):
        await ask(wire, "a", 100_000)
        await has_streamed(wire, "a")
        wire._requests["a"].deadline = 0.0
        [taken] = await wire.claim(BASE, "other", "fake", Capacity(1), 30.0)
        await until(lambda: engine.aborted == ["a"])
        assert len(await wire.history("a")) == taken.length


async def test_a_worker_may_take_its_own_request_again(wire):
    """It slept past its lease: the claim is new, the engine begins from what was streamed."""
    engine = FakeEngine()
    async with serving(wire, lambda: engine):
        await ask(wire, "a", 3000)
        await has_streamed(wire, "a")
        wire.is_away = True
        await wire.release(Claim("a", None, wire._requests["a"].token, 1, None, 0, "fake", 1.0))
        wire.is_away = False
        text, end = await answer(wire, "a")
    assert (text, end.reason) == (text_of(3000), "length")


async def test_what_the_wire_lost_is_written_again(wire):
    async with serving(wire):
        await ask(wire, "a", 200)
        await has_streamed(wire, "a")
        del wire._streams["a"][1:]
        text, _ = await answer(wire, "a")
    assert text == text_of(200)


async def test_words_that_a_reader_waits_for_are_written_without_those_that_gather():
    written: list[str] = []

    class Noting(MemoryWire):
        async def append_all(self, writes):
            written.extend(write.claim.id for write in writes)
            return [Receipt(True, False, 1) for _ in writes]

    async def settle(one, write, receipt):
        pass

    running = {id: Running(Claim(id, None, "t", 1, None, 0, "fp", 1.0), ticket=1) for id in ("first", "later")}
    running["first"].take(Delta("first", "x", (1,)))
    running["later"].take(Progress("later", "running"))
    outbox = Outbox(Noting(), running, Retry("w1"), settle)
    await outbox.write(only_urgent=True)
    assert written == ["first"]
    await outbox.write()
    assert set(written[1:]) == {"first", "later"}, "nothing was settled, so all is offered again"


def test_deltas_are_joined_up_to_the_end():
    events = [Progress("a", "running"), Delta("a", "x", (1,)), Delta("a", "y", (2,)), Finished("a", "done")]
    assert coalesce(events) == [Progress("a", "running"), Delta("a", "xy", (1, 2)), Finished("a", "done")]


def test_joined_deltas_tell_the_weights_of_all_their_tokens():
    x, y = TokenWeights("x", (0.25, 0.75)), TokenWeights("y", (1.0, 0.0))
    joined = coalesce([Delta("a", "x", (1,), weights=(x,)), Delta("a", "y", (2,), weights=(y,))])
    assert joined == [Delta("a", "xy", (1, 2), weights=(x, y))]


def test_an_entry_that_was_offered_never_changes():
    running = Running(Claim("a", None, "t", 2, Resume((1,), 1), 4, "fp", 1.0), ticket=1)
    running.take(Delta("a", "x", (2,)))
    offered = running.write()
    running.take(Delta("a", "y", (3,)))
    assert (offered.after, running.write().events) == (4, (Delta("a", "x", (2,)), Delta("a", "y", (3,))))
    running.settle(Receipt(True, length=5))
    assert (running.write().after, running.write().events) == (5, (Delta("a", "y", (3,)),))
    running.take(Finished("a", "done"))
    running.settle(Receipt(True, length=6))
    assert not running.is_over
    [end] = running.write().events
    assert end.stats.takeovers == 1
    running.settle(Receipt(True, length=7))
    assert running.is_over


def test_first_words_and_the_end_are_urgent_and_what_lies_between_is_not():
    running, urgent = Running(Claim("a", None, "t", 1, None, 0, "fp", 1.0), ticket=1), []
    for event in (Progress("a", "running"), Delta("a", "x", (1,)), Delta("a", "y", (2,)), Finished("a", "done")):
        running.take(event)
        urgent.append(running.is_urgent)
        running.write()
    assert urgent == [False, True, False, True]


async def test_a_tenant_s_first_chat_interrupts_and_its_next_does_not(wire):
    engine = FakeEngine(step_seconds=0.01)
    for id, tenant, queue_class in (("a", "ann", "chat"), ("b", "ann", "chat"), ("c", "ben", "evaluation")):
        request = Generate(id, prompt="hi", sampling=Sampling(max_tokens=20), tenant=tenant)
        await wire.submit(request, BASE, queue_class, 1000)
    async with serving(wire, lambda: engine):
        for id in ("a", "b", "c"):
            await answer(wire, id)
    assert engine.num_interrupts == 1


async def test_a_proof_interrupts_nobody(wire):
    """A program waits for it, ten times a second perhaps, and what a pass has computed would be lost."""
    engine = FakeEngine(step_seconds=0.01)
    await wire.submit(Generate("a", prompt="hi", sampling=Sampling(max_tokens=20), tenant="ann"), BASE, "chat", 1000)
    await wire.submit(Probe("p", AdapterRef("ab" * 32), is_awaited=True), BASE, "chat", 1000)
    async with serving(wire, lambda: engine):
        await answer(wire, "a")
    assert engine.num_interrupts == 1
