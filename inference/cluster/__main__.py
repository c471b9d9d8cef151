"""``python -m inference.cluster``: workers on a Ray cluster, from the environment. See `inference.cluster.settings`.

It hands the plan to a controller on the cluster and tells what that does. It may be ended at any time: controller and
replicas stay, and ``--stop`` ends them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from inference.cluster.settings import ClusterPlan, read_plan
from inference.cluster.words import changed, told
from inference.config import ConfigError, start_logging
from inference.wire import cluster
from inference.wire.cluster import PoolChange

BAD_CONFIG: Final = 2
FOLLOW_SECONDS: Final = 1.0

log = logging.getLogger("cluster")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when it did what was asked, 1 when the cluster or Redis could not be reached, 2 for a bad environment."""
    asked = read_arguments(arguments)
    try:
        start_logging()
        plan = read_plan(revision=asked.revision)
        if asked.status:
            return asyncio.run(status(plan))
        _check_ray()
    except ConfigError as error:
        print(f"Cannot start: {error}", file=sys.stderr)
        return BAD_CONFIG
    return _on_cluster(asked, plan)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m inference.cluster",
        description="Runs a pool of workers on a Ray cluster for each base, and the trainings. The environment says "
        "which bases (BASE_MODELS), how many replicas (REPLICAS=1-4) and what each takes (REPLICA_CPUS, REPLICA_GPUS).",
    )
    parser.add_argument("--address", default="auto", help="of the cluster, as host:6379; else RAY_ADDRESS, or here")
    parser.add_argument("--revision", default="", help="any text; another one replaces all replicas, one by one")
    parser.add_argument("--detach", action="store_true", help="return once the controller has the plan")
    parser.add_argument("--status", action="store_true", help="say how nodes and replicas do, and end")
    parser.add_argument("--stop", action="store_true", help="drain all replicas, give trainings back, and end")
    return parser.parse_args(arguments)


async def status(plan: ClusterPlan) -> int:
    """Tell what the controller told last."""
    try:
        async with Redis.from_url(plan.redis_url, decode_responses=True, protocol=2) as redis:
            found = await cluster.read(redis)
    except (RedisError, OSError) as error:
        print(f"Redis does not answer at REDIS_URL: {error}", file=sys.stderr)
        return 1
    print(told(*found) if found else "No cluster has told anything within a day.")
    return 0 if found else 1


def _check_ray() -> None:
    if find_spec("ray") is None:
        raise ConfigError("Ray is not installed; `pip install 'ray[default]>=2.50,<3'` puts it there")


def _on_cluster(asked: argparse.Namespace, plan: ClusterPlan) -> int:
    from inference.cluster import deployment  # loads Ray, which whoever only asks for the status need not have

    try:
        deployment.connect(asked.address, plan)
        if asked.stop:
            asyncio.run(deployment.stop(plan))
            print("All replicas have ended.")
            return 0
        print(deployment.deploy(plan))
    except ConfigError as error:
        print(f"Cannot start: {error}", file=sys.stderr)
        return BAD_CONFIG
    except (ConnectionError, RedisError, OSError) as error:
        print(f"The cluster cannot be reached: {error}", file=sys.stderr)
        return 1
    if not asked.detach:
        asyncio.run(follow(plan))
    return 0


async def follow(plan: ClusterPlan) -> None:
    """Tell each change, until SIGINT or SIGTERM."""
    ending, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    seen: Sequence[PoolChange] = ()
    async with Redis.from_url(plan.redis_url, decode_responses=True, protocol=2) as redis:
        while not ending.is_set():
            with suppress(RedisError, OSError):
                found = await cluster.read(redis)
                changes = found[0].changes if found else seen
                for change in reversed([change for change in changes if change not in seen]):
                    print(changed(change), flush=True)
                seen = changes
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), FOLLOW_SECONDS)
    print("The replicas go on; --status tells how they do, and --stop ends them.")


if __name__ == "__main__":
    sys.exit(main())
