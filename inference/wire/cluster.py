"""What whoever keeps pools of workers on a cluster tells of them, in Redis: nodes, replicas, why a pool grew or shrank.

The site reads it and needs nothing else of the cluster. The report stays for a day, and beside it a sign of life for
`ALIVE_SECONDS` only, so that one whose author has gone is seen as such. Functions raise redis's own errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from redis.asyncio import Redis

from inference.wire.codec import Codec, ProtocolError

ALIVE_SECONDS: Final = 15.0
KEPT_SECONDS: Final = 24 * 3600
MOST_CHANGES: Final = 20
"""How many changes are told, the newest first."""
REPORT: Final = "cluster:report"
ALIVE: Final = "cluster:alive"

ReplicaState = Literal["waiting", "loading", "ready", "draining", "ended"]
"""Waiting for a place on the cluster, or to be started again; then as a worker's; ended is one that has left in peace
and takes up its place until it is put away."""


@dataclass(frozen=True)
class NodeReport:
    """A machine of the cluster and what it has of each."""

    id: str
    address: str
    cpus: float = 0.0
    gpus: float = 0.0


@dataclass(frozen=True)
class ReplicaReport:
    """A worker by its name; `node` is empty while it has no place, `revision` the settings and the code it runs."""

    name: str
    state: ReplicaState
    revision: str
    node: str = ""


@dataclass(frozen=True)
class PoolReport:
    """The replicas of the base with the key `base`: how many there are to be, within which bounds, and what each takes.

    `lacks` says what keeps the pool from being as it should be, where anything does.
    """

    base: str
    low: int
    high: int
    wanted: int
    cpus: float
    gpus: float
    replicas: tuple[ReplicaReport, ...] = ()
    lacks: str = ""


@dataclass(frozen=True)
class PoolChange:
    """A decision on the pool of `base` at `time`, in seconds since 1970; `reason` is a sentence."""

    time: float
    base: str
    before: int
    after: int
    reason: str


@dataclass(frozen=True)
class ClusterReport:
    """All that is told, as of `time`. `trainings` is how many are at work on the cluster."""

    time: float
    nodes: tuple[NodeReport, ...] = ()
    pools: tuple[PoolReport, ...] = ()
    changes: tuple[PoolChange, ...] = ()
    trainings: int = 0

    def pool(self, base: str) -> PoolReport | None:
        """That of the base with this key."""
        return next((pool for pool in self.pools if pool.base == base), None)


_CODEC: Final = Codec[ClusterReport](ClusterReport)


async def write(redis: Redis, report: ClusterReport) -> None:
    """Tell `report` and that its author lives."""
    pipe = redis.pipeline(transaction=True)
    pipe.set(REPORT, _CODEC.encode(report), ex=KEPT_SECONDS)
    pipe.set(ALIVE, "1", px=round(ALIVE_SECONDS * 1000))
    await pipe.execute()


async def read(redis: Redis) -> tuple[ClusterReport, bool] | None:
    """What was told last and whether its author still lives; None where there is none that this version can read."""
    text, sign = await redis.mget(REPORT, ALIVE)
    try:
        return (_CODEC.decode(text), sign is not None) if text else None
    except ProtocolError:
        return None


async def forget(redis: Redis) -> None:
    """There is no cluster any more."""
    await redis.delete(REPORT, ALIVE)
