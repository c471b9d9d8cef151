"""What is told of a cluster, and who waits, over a real Redis."""

from __future__ import annotations

import time
import uuid

import pytest
from redis.asyncio import Redis

from inference.wire import cluster
from inference.wire.capacity import Capacity
from inference.wire.cluster import ClusterReport, NodeReport, PoolChange, PoolReport, ReplicaReport
from inference.wire.protocol import AdapterRef, Generate
from inference.wire.redis_wire import RedisWire
from inference.wire.waiting import Waiting, waiting

REPORT = ClusterReport(
    time=1.5,
    nodes=(NodeReport("n1", "10.0.0.1", 8.0, 1.0),),
    pools=(PoolReport("tiny", 1, 4, 2, 1.0, 0.5, (ReplicaReport("tiny-1", "ready", "abc", "n1"),), "a place"),),
    changes=(PoolChange(1.0, "tiny", 1, 2, "somebody waited"),),
    trainings=1,
)


@pytest.fixture
async def redis(redis_url: str):
    async with Redis.from_url(redis_url, decode_responses=True, protocol=2) as redis:
        await cluster.forget(redis)
        yield redis
        await cluster.forget(redis)


async def test_a_report_comes_back_as_it_was_and_its_author_is_seen_to_live(redis: Redis) -> None:
    assert await cluster.read(redis) is None
    await cluster.write(redis, REPORT)
    assert await cluster.read(redis) == (REPORT, True)
    assert REPORT.pool("tiny") is REPORT.pools[0]
    assert REPORT.pool("other") is None


async def test_the_report_of_one_that_has_gone_is_read_and_known_as_such(redis: Redis) -> None:
    await cluster.write(redis, REPORT)
    await redis.delete(cluster.ALIVE)
    assert await cluster.read(redis) == (REPORT, False)


async def test_what_another_version_told_is_as_good_as_nothing(redis: Redis) -> None:
    await redis.set(cluster.REPORT, '{"kind":"clusterreport","of":"tomorrow"}')
    assert await cluster.read(redis) is None


async def test_who_waits_is_counted_with_the_oldest_and_the_adapter_that_most_want(redis: Redis) -> None:
    base, now = uuid.uuid4().hex, time.time()
    wire = RedisWire(redis)
    assert await waiting(redis, base) == Waiting()
    for number, adapter in enumerate(["a", "b", "a", ""]):
        request = Generate(
            f"{base}-{number}",
            adapter=AdapterRef(adapter * 64) if adapter else None,
            prompt="hi",
            created=now - 100 + number,
            tenant=f"user:{number}",
        )
        await wire.submit(request, base, "evaluation" if adapter == "b" else "chat", 100)
    found = await waiting(redis, base)
    assert (found.number, found.sampled, found.hottest, found.hottest_number) == (4, 4, "a" * 64, 2)
    assert 99 < found.oldest_seconds < 130
    [claim] = await wire.claim(base, "w", "fp", Capacity(1), 10.0)
    found = await waiting(redis, base)
    assert (claim.id, found.number) == (f"{base}-0", 3), "what is claimed waits no longer"
    assert found.oldest_seconds < 99 + 30


async def test_an_answer_that_was_handed_over_waits_from_then_on(redis: Redis) -> None:
    base = uuid.uuid4().hex
    wire = RedisWire(redis)
    await wire.submit(Generate(base, prompt="hi", created=time.time() - 1000, tenant="user:1"), base, "chat", 100)
    [claim] = await wire.claim(base, "w", "fp", Capacity(1), 300.0)
    assert await waiting(redis, base) == Waiting()
    await wire.release(claim)
    found = await waiting(redis, base)
    assert (found.number, found.oldest_seconds < 900) == (1, True)
