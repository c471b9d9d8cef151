"""One worker on a cluster: the product's own `Worker` in the process of a Ray actor, which Ray places and restarts.

The worker has a thread and an event loop of its own from the moment the actor is made, so that one that Ray has started
again serves again without anybody asking it to. The module imports no Ray: `inference.cluster.stage` makes it an actor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import uvloop

from inference.__main__ import TURN_SECONDS, load_engine
from inference.cluster.surroundings import take_on
from inference.config import EngineConfig, read_config
from inference.fetch import fetch_model
from inference.wire.cluster import ReplicaState
from inference.wire.redis_wire import RedisWire
from inference.worker.device_thread import SteppedEngine
from inference.worker.worker import Worker, WorkerConfig

CRASHED: Final = 1
RESTART_SECONDS: Final = 1.0
"""One that fails as soon as it begins would have Ray start processes without end."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaPlan:
    """What a replica is told: the base that it serves, under which worker's name, in which revision, with which
    `settings` of the environment and which resources.
    """

    base: str
    name: str
    revision: str
    settings: Mapping[str, str]
    cpus: float
    gpus: float

    def config(self, environ: Mapping[str, str]) -> EngineConfig:
        """The worker's configuration: unless the settings say otherwise, the threads and the share of a GPU's memory
        are those of its resources, which stages on one host share. Raises `ConfigError`."""
        config = read_config({**environ, **self.settings, "WORKER_NAME": self.name}, self.base)
        here = 1 if config.stage_address else config.stages
        threads = config.threads or (max(1, round(self.cpus / here)) if self.cpus else 0)
        return replace(config, threads=threads, memory_share=min(1.0, self.gpus or 1.0))


@dataclass(frozen=True)
class Standing:
    """How a replica does, and where."""

    state: ReplicaState
    node: str
    pid: int


class Replica:
    """Serves as `plan` says on the node with the id `node`, from its beginning to its drain."""

    def __init__(self, plan: ReplicaPlan, node: str) -> None:
        take_on(plan.settings)
        sys.setswitchinterval(TURN_SECONDS)
        self._plan, self._node = plan, node
        self._worker: Worker | None = None
        self._has_left = threading.Event()
        self._is_drained = False
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def standing(self) -> Standing:
        """How it does now."""
        state: ReplicaState = self._worker.state if self._worker else "loading"
        return Standing("ended" if self._has_left.is_set() else state, self._node, os.getpid())

    def drain(self, seconds: float) -> None:
        """Finish what can be within `seconds`, hand the rest over, and end in peace; returns at once. Asking again
        changes nothing."""
        if self._is_drained or self._has_left.is_set():
            return
        self._is_drained = True
        if (worker := self._worker) is None:
            self._has_left.set()
        else:
            self._loop.call_soon_threadsafe(worker.drain, seconds)

    def _run(self) -> None:
        """Serve to the end. After a failure the process ends, for Ray to start it again."""
        code = CRASHED
        try:
            code = uvloop.run(self._serve())
        except BaseException:
            log.exception("crashed worker=%s", self._plan.name)
        if code:
            time.sleep(RESTART_SECONDS)
            logging.shutdown()
            os._exit(code)
        self._has_left.set()

    async def _serve(self) -> int:
        config = self._plan.config(os.environ)
        self._loop = asyncio.get_running_loop()
        async with RedisWire.connect(config.redis_url, config.tenant_weights) as wire:
            settings = WorkerConfig(config.base_key, config.worker_name, config.lease_seconds)
            worker = Worker(wire, lambda: _engine(config), settings)
            self._worker = worker
            return await worker.run()


def _engine(config: EngineConfig) -> SteppedEngine:
    """A node may never have had the base before."""
    fetch_model(config)
    return load_engine(config)
