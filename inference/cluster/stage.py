"""What a pool asks of Ray, and nothing else of this house does: to make actors, find them, ask and end them.

Actors are named and detached, so that they stay when whoever made them goes, and a new controller finds them: the
name says of which base a replica is, its number and its revision.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from ray.exceptions import RayError

from inference.cluster.replica import Replica, ReplicaPlan, Standing
from inference.cluster.settings import PoolPlan, TrainingPlan
from inference.cluster.trainings import train_next
from inference.wire.cluster import NodeReport, ReplicaState

NAMESPACE: Final = "loraland"
ANSWER_SECONDS: Final = 5.0
"""A replica that does not answer for so long has no place, or is being started again."""
_PREFIX: Final = "replica"

log = logging.getLogger(__name__)


@dataclass
class Placed:
    """A replica that Ray knows: who it is, and what it said last. `since` is when that began, and `drained` when it was
    last asked to drain, by the monotonic clock."""

    base: str
    number: int
    revision: str
    handle: Any
    standing: Standing | None = None
    since: float = field(default_factory=time.monotonic)
    drained: float | None = None
    _asked: asyncio.Future[Standing] | None = None
    _asked_at: float = 0.0

    @property
    def actor_name(self) -> str:
        """What Ray calls it."""
        return f"{_PREFIX}/{self.base}/{self.number}/{self.revision}"

    @property
    def name(self) -> str:
        """What its worker is called."""
        return worker_name(self.base, self.number, self.revision)

    @property
    def state(self) -> ReplicaState:
        """Waiting until it answers, and draining from the moment in which it was asked to."""
        said: ReplicaState = self.standing.state if self.standing else "waiting"
        return "draining" if self.drained is not None and said != "ended" else said

    @property
    def node(self) -> str:
        """The id of its node, as far as it is known."""
        return self.standing.node if self.standing else ""

    @property
    def seconds(self) -> float:
        """For how long it has been in this state."""
        return time.monotonic() - self.since

    def look(self) -> None:
        """Take the answer to the last question, if it came, and ask again. What has no place does not answer."""
        if self._asked and self._asked.done():
            failure = self._asked.exception()
            self._take(None if failure else self._asked.result())
            self._asked = None
        elif self._asked and time.monotonic() - self._asked_at > ANSWER_SECONDS:
            self._take(None)
        if self._asked is None:
            self._asked, self._asked_at = _future(self.handle.standing.remote()), time.monotonic()

    def _take(self, standing: Standing | None) -> None:
        if (standing.state if standing else "waiting") != self.state:
            self.since = time.monotonic()
        self.standing = standing
        if standing and self.drained is not None and standing.state in ("loading", "ready"):
            self._doubt(self.drained)

    def _doubt(self, asked: float) -> None:
        """A drain that never came to it, or to the process before it, is to be asked for again."""
        if time.monotonic() - asked > ANSWER_SECONDS:
            self.drained = None


class Stage:
    """Ray, which this process is connected to already."""

    def __init__(self) -> None:
        self._placed: dict[str, Placed] = {}

    async def look(self) -> list[Placed]:
        """Every replica that there is, in order; new ones are waited for a moment."""
        names = [name for name in ray.util.list_named_actors() if name.startswith(f"{_PREFIX}/")]
        found = {name: placed for name in names if (placed := self._placed.get(name) or _found(name))}
        are_new = found.keys() - self._placed.keys()
        self._placed = found
        for placed in found.values():
            placed.look()
        if are_new:
            await asyncio.sleep(0.2)
            for placed in found.values():
                placed.look()
        return sorted(found.values(), key=lambda placed: (placed.base, placed.number))

    def start(self, pool: PoolPlan, number: int) -> None:
        """Make the replica of this number in the revision of `pool`; Ray places it when it can."""
        name = worker_name(pool.key, number, pool.revision)
        plan = ReplicaPlan(pool.base, name, pool.revision, pool.settings, pool.cpus, pool.gpus)
        placed = Placed(pool.key, number, pool.revision, None)
        actor = ray.remote(_NodeReplica).options(
            name=placed.actor_name,
            lifetime="detached",
            max_restarts=-1,
            max_concurrency=4,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            scheduling_strategy="SPREAD",
        )
        try:
            placed.handle = actor.remote(plan)
        except ValueError as error:
            log.warning("not started yet replica=%s error=%s", name, error)  # the last one of the name is still ending
        else:
            self._placed[placed.actor_name] = placed

    def drain(self, placed: Placed, seconds: float) -> None:
        """Ask it to leave in peace; asked again, it goes on as it was."""
        placed.drained = time.monotonic()
        _future(placed.handle.drain.remote(seconds))

    def remove(self, placed: Placed) -> None:
        """End its process, whatever it does, and forget it."""
        self._placed.pop(placed.actor_name, None)
        ray.kill(placed.handle, no_restart=True)

    def dismiss(self, placed: Placed, seconds: float) -> None:
        """Go on with the end of one that is not wanted at all, look by look."""
        if placed.state == "ended" or (placed.state == "waiting" and placed.seconds > ANSWER_SECONDS):
            self.remove(placed)
        elif placed.state in ("loading", "ready"):
            self.drain(placed, seconds)

    def nodes(self) -> tuple[NodeReport, ...]:
        """The machines that are alive."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        return tuple(
            NodeReport(
                node["NodeID"],
                node["NodeManagerAddress"],
                node["Resources"].get("CPU", 0.0),
                node["Resources"].get("GPU", 0.0),
            )
            for node in sorted(alive, key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
        )

    def train(self, plan: TrainingPlan, redis_url: str) -> Training:
        """Have the next training done once there is room for it."""
        resources = {"num_cpus": plan.cpus, "num_gpus": plan.gpus}
        task = ray.remote(max_retries=0, max_calls=1, **resources)(train_next)
        return Training(task.remote(redis_url, plan))


class Training:
    """A task that does one training."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference
        self.end: asyncio.Future[bool] = _future(reference)
        """Done once the task is over; an exception is what ended the task itself, such as the loss of its node."""

    def cancel(self) -> None:
        """Let it keep a checkpoint and give the training back."""
        ray.cancel(self._reference, force=False)


class _NodeReplica(Replica):
    """A replica that knows on which node it is."""

    def __init__(self, plan: ReplicaPlan) -> None:
        super().__init__(plan, ray.get_runtime_context().get_node_id())


def worker_name(base: str, number: int, revision: str) -> str:
    """As Redis knows it. Another cluster there, as while one replaces another, has another revision."""
    return f"{base}-{number}-{revision[:4]}"


def _found(name: str) -> Placed | None:
    """The actor of this name; None when it has gone meanwhile."""
    _, base, number, revision = name.split("/")
    try:
        return Placed(base, int(number), revision, ray.get_actor(name))
    except (ValueError, RayError):
        return None


def _future(reference: Any) -> asyncio.Future[Any]:
    """Of a result of Ray, for the loop that runs here; a failure that nobody asks about is no news."""
    future = asyncio.wrap_future(reference.future())
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
