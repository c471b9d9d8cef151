"""What insiders are told of a cluster of workers: its machines, who works on each, and why pools changed.

All of it comes from Redis (`inference.wire.cluster`). Where nobody keeps a cluster there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from redis.exceptions import RedisError

from inference.wire import cluster
from inference.wire.cluster import ClusterReport, NodeReport, PoolChange, PoolReport, ReplicaReport
from inference.wire.protocol import Heartbeat
from loraland import inference_client
from loraland.bases import Base
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.residency import SHOWN, Residency

MOST: Final = 8
"""How many adapters of each worker are shown."""

Residencies = Sequence[tuple[Base, Residency]]


@dataclass(frozen=True)
class ReplicaView:
    """A worker that the cluster keeps, with its last words if it lives, and the adapters on its device that were asked
    for last; `unseen` is how many there are beside them."""

    replica: ReplicaReport
    beat: Heartbeat | None
    versions: tuple[AdapterVersion, ...]
    unseen: int


@dataclass(frozen=True)
class NodeView:
    """A machine and who works on it; None stands for those that have no place yet."""

    node: NodeReport | None
    replicas: tuple[ReplicaView, ...]


@dataclass(frozen=True)
class ChangeView:
    """A decision, and when it was made."""

    change: PoolChange
    base: str
    at: datetime


@dataclass(frozen=True)
class ClusterView:
    """All of it; without `is_alive` nobody keeps the cluster any more, and it was so at the time `at`."""

    at: datetime
    is_alive: bool
    nodes: tuple[NodeView, ...]
    pools: tuple[tuple[str, PoolReport], ...]
    changes: tuple[ChangeView, ...]
    trainings: int


async def reported() -> tuple[ClusterReport, bool] | None:
    """What was told last and whether whoever told it lives; None without a cluster, or while Redis is away."""
    try:
        return await cluster.read(inference_client.redis())
    except (RedisError, OSError):
        return None


async def cluster_view(residencies: Residencies) -> ClusterView | None:
    """The cluster beside what its workers tell themselves."""
    if (told := await reported()) is None:
        return None
    report, is_alive = told
    names = {base.key: base.name for base, _ in residencies}
    return ClusterView(
        at=_moment(report.time),
        is_alive=is_alive,
        nodes=tuple(_nodes(report, await _views(report, residencies))),
        pools=tuple((names.get(pool.base, pool.base), pool) for pool in report.pools),
        changes=tuple(
            ChangeView(change, names.get(change.base, change.base), _moment(change.time)) for change in report.changes
        ),
        trainings=report.trainings,
    )


async def _views(report: ClusterReport, residencies: Residencies) -> list[ReplicaView]:
    beats = {beat.worker: beat for _, held in residencies for beat in held.heartbeats}
    wanted = {digest for beat in beats.values() for digest in beat.load.on_device[-MOST:]}
    shown = AdapterVersion.objects.shown().filter(digest__in=wanted).only(*SHOWN)
    versions = {version.digest: version async for version in shown}
    return [_view(replica, beats.get(replica.name), versions) for pool in report.pools for replica in pool.replicas]


def _view(replica: ReplicaReport, beat: Heartbeat | None, versions: Mapping[str, AdapterVersion]) -> ReplicaView:
    held = beat.load.on_device if beat else ()
    found = tuple(versions[digest] for digest in reversed(held[-MOST:]) if digest in versions)
    return ReplicaView(replica, beat, found, len(held) - len(found))


def _nodes(report: ClusterReport, views: Sequence[ReplicaView]) -> Iterable[NodeView]:
    known = {node.id for node in report.nodes}
    for node in report.nodes:
        yield NodeView(node, tuple(view for view in views if view.replica.node == node.id))
    if placeless := tuple(view for view in views if view.replica.node not in known):
        yield NodeView(None, placeless)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
