"""From the outside: connect to a Ray cluster, give it a controller with a plan, and end all of it."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import Any, Final

import ray
from ray.exceptions import RayError
from redis.asyncio import Redis

from inference.cluster.controller import LEAVE_SECONDS, ControllerActor
from inference.cluster.settings import ClusterPlan
from inference.cluster.stage import NAMESPACE, Stage
from inference.config import ConfigError
from inference.wire import cluster

CONTROLLER: Final = "controller"
REACH_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
NAME_SECONDS: Final = 15.0
"""How long the name of an actor that was ended may stay taken."""
STOP_LOOK_SECONDS: Final = 0.25


def connect(address: str, plan: ClusterPlan) -> None:
    """Connect this process to the cluster at `address`. Raises `ConfigError` for a Redis that its nodes cannot reach,
    and OSError."""
    _reach(address)
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="warning")
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if plan.redis_url.startswith("unix:") and len(hosts) > 1:
        raise ConfigError(
            f"REDIS_URL={plan.redis_url} is a socket of one machine, and the cluster has {len(hosts)}: give the "
            "address of a Redis that all of them reach, such as redis://10.0.0.5:6379"
        )


def _reach(address: str) -> None:
    """Find out at once that nobody listens there; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), REACH_SECONDS).close()
        except OSError as error:
            raise ConnectionError(f"no Ray listens at {address} ({error}); `ray start --head` starts one") from error


def deploy(plan: ClusterPlan, look_seconds: float = 1.0) -> str:
    """Let a controller keep `plan` from now on; a sentence of what was done. One with another plan leaves in peace."""
    if (running := _controller()) is not None:
        if _plan_of(running) == plan:
            return "A controller keeps this plan already."
        _end(running)
    actor = ray.remote(ControllerActor).options(
        name=CONTROLLER, lifetime="detached", max_restarts=-1, max_concurrency=4, num_cpus=0
    )
    end = time.monotonic() + NAME_SECONDS
    while True:
        try:
            ray.get(actor.remote(plan, look_seconds).plan.remote(), timeout=ANSWER_SECONDS)
            break
        except ValueError:
            if time.monotonic() > end:
                raise
            time.sleep(STOP_LOOK_SECONDS)
    told = ", ".join(f"{pool.key} with {pool.bounds.low} to {pool.bounds.high} replicas" for pool in plan.pools)
    return f"A controller keeps {told}."


async def stop(plan: ClusterPlan) -> None:
    """End the controller, drain every replica, put all away and forget the report."""
    if (running := _controller()) is not None:
        await asyncio.to_thread(_end, running)
    stage, seconds = Stage(), max(pool.drain_seconds for pool in plan.pools)
    while placed := await stage.look():
        for each in placed:
            stage.dismiss(each, seconds)
        await asyncio.sleep(STOP_LOOK_SECONDS)
    async with Redis.from_url(plan.redis_url, decode_responses=True, protocol=2) as redis:
        await cluster.forget(redis)


def _controller() -> Any:
    try:
        return ray.get_actor(CONTROLLER)
    except ValueError:
        return None


def _plan_of(controller: Any) -> ClusterPlan | None:
    """What it keeps; None where it does not answer, or speaks another version."""
    try:
        return ray.get(controller.plan.remote(), timeout=ANSWER_SECONDS)
    except RayError:
        return None


def _end(controller: Any) -> None:
    with suppress(RayError):  # it has gone, or will be ended now whatever it does
        ray.get(controller.leave.remote(), timeout=LEAVE_SECONDS + ANSWER_SECONDS)
    ray.kill(controller, no_restart=True)
