"""Who asks of a cluster in its tests, and how far its pool has come: the workload W3 over a tiny random model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from inference.cluster.settings import ClusterPlan, read_plan
from inference.wire import cluster
from inference.wire.cluster import ClusterReport, PoolReport
from inference.wire.protocol import AdapterRef, Delta, Event, Finished, Generate, Sampling
from inference.wire.redis_wire import RedisWire
from tests.inference.checkpoints import make_adapter, make_model
from tests.inference.engines import VOCAB, make_tokenizer
from tests.patience import PATIENCE, patiently
from tests.redis_server import RedisServer

USERS: Final = 25
ADAPTERS: Final = 6
TOKENS: Final = 120


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
            "LEASE_SECONDS": "4",
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


async def pool_that(wire: RedisWire, is_it: Callable[[PoolReport], Any], later_than: float = 0.0) -> ClusterReport:
    """The first report of which `is_it`."""
    found = None
    for _ in patiently():
        found = await cluster.read(wire._client)
        pool = found[0].pool("tiny") if found else None
        if found and pool and found[0].time > later_than and is_it(pool):
            return found[0]
        await asyncio.sleep(0.1)
    raise AssertionError(f"the cluster came no further than {found}")


def ready(pool: PoolReport) -> int:
    return sum(replica.state == "ready" for replica in pool.replicas)


def are_ready(number: int) -> Callable[[PoolReport], bool]:
    return lambda pool: ready(pool) == len(pool.replicas) == number
