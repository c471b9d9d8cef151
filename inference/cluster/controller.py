"""Keeps the pools of a cluster and its trainings as they are to be, and tells the site of it.

It is an actor of Ray itself, detached and restarted like the replicas. They do not need it: while there is none they
serve on, and the next one finds them by their names and goes on from what the last one told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from ray.exceptions import RayError
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from inference.cluster.pool import Pool
from inference.cluster.settings import ClusterPlan
from inference.cluster.stage import Placed, Stage, Training
from inference.cluster.steps import Step
from inference.cluster.surroundings import take_on
from inference.cluster.trainings import SERVER
from inference.server import queue as training_queue
from inference.wire import cluster
from inference.wire.cluster import MOST_CHANGES, ClusterReport, PoolChange
from inference.wire.contract import WireError
from inference.wire.redis_wire import RedisWire
from inference.wire.waiting import waiting

LOOK_SECONDS: Final = 1.0
RESTART_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 15.0
LEAVE_SECONDS: Final = 20.0
"""How long trainings may take to their checkpoints when the controller goes."""

log = logging.getLogger(__name__)


class ControllerActor:
    """A controller with a thread and a loop of its own, so that it works as soon as Ray has started it again."""

    def __init__(self, plan: ClusterPlan, look_seconds: float = LOOK_SECONDS) -> None:
        take_on({"LOG_LEVEL": plan.trainings.settings.get("LOG_LEVEL", "info")})
        self._plan = plan
        self._leaving = threading.Event()
        self._has_left = threading.Event()
        threading.Thread(target=self._run, args=[look_seconds], name="controller", daemon=True).start()

    def plan(self) -> ClusterPlan:
        """What it keeps to."""
        return self._plan

    def leave(self) -> bool:
        """Give trainings back in peace and end; whether there was time for it. The replicas stay."""
        self._leaving.set()
        return self._has_left.wait(LEAVE_SECONDS + 5)

    def _run(self, look_seconds: float) -> None:
        with contextlib.suppress(Exception):
            asyncio.run(self._keep(look_seconds))
        if not self._leaving.is_set():
            time.sleep(RESTART_SECONDS)
            os._exit(1)  # for Ray to start it again
        self._has_left.set()

    async def _keep(self, look_seconds: float) -> None:
        client = Redis.from_url(self._plan.redis_url, decode_responses=True, socket_timeout=10, protocol=2)
        try:
            await Controller(self._plan, Stage(), client).run(look_seconds, self._leaving.is_set)
        except BaseException:
            log.exception("crashed controller")
            raise
        finally:
            await client.aclose()


class Controller:
    """Keeps what `plan` asks for on `stage`, by what `redis` tells."""

    def __init__(self, plan: ClusterPlan, stage: Stage, redis: Redis) -> None:
        self._plan, self._stage, self._redis = plan, stage, redis
        self._wire = RedisWire(redis)
        self._trainer_redis = SyncRedis.from_url(plan.redis_url, decode_responses=True, socket_timeout=10)
        self._pools: list[Pool] = []
        self._changes: deque[PoolChange] = deque(maxlen=MOST_CHANGES)
        self._trainings: list[Training] = []

    async def run(self, look_seconds: float, is_leaving: Callable[[], bool]) -> None:
        """Look again and again until it is to leave. While Redis is away or Ray does not answer nothing changes."""
        while not is_leaving():
            try:
                await self._look()
            except (RedisError, WireError, RayError, OSError) as error:
                log.warning("cut off error=%r", error)
            await asyncio.sleep(look_seconds)
        await self._give_back()

    async def _look(self) -> None:
        if not self._pools:
            await self._begin()
        placed = await self._stage.look()
        keys = {pool.plan.key for pool in self._pools}
        for stranger in (each for each in placed if each.base not in keys):
            self._stage.dismiss(stranger, self._plan.pools[0].drain_seconds)
        for pool in self._pools:
            await self._keep(pool, [each for each in placed if each.base == pool.plan.key])
        await self._train()
        await cluster.write(self._redis, self._report())

    async def _begin(self) -> None:
        """Go on from what was told last."""
        told = await cluster.read(self._redis)
        before = told[0] if told else ClusterReport(0)
        self._changes.extend(before.changes)
        for plan in self._plan.pools:
            pool = before.pool(plan.key)
            self._pools.append(Pool(plan, pool.wanted if pool else plan.bounds.low))

    async def _keep(self, pool: Pool, placed: list[Placed]) -> None:
        beats = await self._wire.heartbeats(pool.plan.key)
        change, todo = pool.look(placed, beats, await waiting(self._redis, pool.plan.key))
        if change:
            self._changes.appendleft(change)
        by_number = {each.number: each for each in placed}
        for step in todo:
            self._do(step, pool, by_number)

    def _do(self, step: Step, pool: Pool, placed: Mapping[int, Placed]) -> None:
        log.info("step base=%s replica=%d do=%s", pool.plan.key, step.number, step.do)
        if step.do == "start":
            self._stage.start(pool.plan, step.number)
        elif step.do == "drain":
            self._stage.drain(placed[step.number], pool.plan.drain_seconds)
        else:
            self._stage.remove(placed[step.number])

    async def _train(self) -> None:
        """Have as many trainings at work as wait and may be. A task claims one when it has its place."""
        for over in [each for each in self._trainings if each.end.done()]:
            self._trainings.remove(over)
            if failure := over.end.exception():
                log.warning("lost a training's task error=%r", failure)
        if not (most := self._plan.trainings.most):
            return
        free, at_work = await asyncio.to_thread(self._queued)
        placeless = max(0, len(self._trainings) - at_work)
        for _ in range(min(most - len(self._trainings), free - placeless)):
            self._trainings.append(self._stage.train(self._plan.trainings, self._plan.redis_url))

    def _queued(self) -> tuple[int, int]:
        """How many trainings wait, and how many are at work; shows on the way that there is a server for them."""
        training_queue.beat(self._trainer_redis, SERVER, BEAT_SECONDS)
        return training_queue.counts(self._trainer_redis)

    async def _give_back(self) -> None:
        """Let trainings come to their checkpoints."""
        for training in self._trainings:
            training.cancel()
        if self._trainings:
            await asyncio.wait([training.end for training in self._trainings], timeout=LEAVE_SECONDS)
        with contextlib.suppress(RedisError):
            await asyncio.to_thread(training_queue.depart, self._trainer_redis, SERVER)

    def _report(self) -> ClusterReport:
        return ClusterReport(
            time=time.time(),
            nodes=self._stage.nodes(),
            pools=tuple(pool.report for pool in self._pools),
            changes=tuple(self._changes),
            trainings=len(self._trainings),
        )
