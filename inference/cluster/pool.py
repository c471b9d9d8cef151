"""The pool of one base, look by look: what is measured goes to the policy, and what that wants becomes steps."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from inference.cluster.policy import Measures, Trend, decide
from inference.cluster.settings import PoolPlan
from inference.cluster.steps import PLACE_SECONDS, Replica, Step, steps
from inference.wire.cluster import PoolChange, PoolReport, ReplicaReport, ReplicaState
from inference.wire.protocol import Heartbeat
from inference.wire.waiting import Waiting

MINUTE: Final = 60.0

log = logging.getLogger(__name__)


class Seen(Protocol):
    """A replica as the stage sees it: `node` is empty and `state` is waiting while it has no place."""

    @property
    def number(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def state(self) -> ReplicaState: ...

    @property
    def node(self) -> str: ...

    @property
    def seconds(self) -> float: ...


class Pool:
    """Keeps the pool that `plan` asks for, going on from `wanted` replicas."""

    def __init__(self, plan: PoolPlan, wanted: int) -> None:
        self.plan = plan
        self.wanted = wanted
        self._trend = Trend()
        self._reloads = Reloads()
        self._replicas: tuple[ReplicaReport, ...] = ()
        self._lacks = ""

    def look(
        self, seen: Sequence[Seen], beats: Sequence[Heartbeat], waiting: Waiting
    ) -> tuple[PoolChange | None, list[Step]]:
        """What is decided now, if anything changes, and what is to be done."""
        running = {beat.worker: beat.load.running for beat in beats if beat.ready}
        replicas = [self._known(each, running) for each in seen]
        self._replicas = tuple(ReplicaReport(each.name, each.state, each.revision, each.node) for each in seen)
        self._lacks = self._told_lack(replicas)
        measures = self._measured(replicas, beats, waiting)
        before, now = self.wanted, time.monotonic()
        decision, self._trend = decide(before, self.plan.bounds, self._trend, measures, now)
        self.wanted = decision.wanted
        change = None
        if decision.reason:
            self._reloads = Reloads()
            change = PoolChange(time.time(), self.plan.key, before, decision.wanted, decision.reason)
            log.info("pool base=%s from=%d to=%d reason=%s", change.base, before, change.after, change.reason)
        return change, steps(replicas, self.wanted, self.plan.revision)

    @property
    def report(self) -> PoolReport:
        """What to tell of it, as it was at the last look."""
        plan = self.plan
        low, high = plan.bounds.low, plan.bounds.high
        return PoolReport(plan.key, low, high, self.wanted, plan.cpus, plan.gpus, self._replicas, self._lacks)

    def _known(self, seen: Seen, running: Mapping[str, int]) -> Replica:
        """What the steps need of it. A new one serves once Redis has heard of it, and until then no old one goes. One
        that Redis hears serves, also while it is too busy to answer Ray."""
        is_heard = seen.name in running or seen.revision != self.plan.revision
        state: ReplicaState = seen.state if seen.state != "ready" or is_heard else "loading"
        state = "ready" if state == "waiting" and seen.name in running else state
        return Replica(seen.number, seen.revision, state, seen.seconds, running.get(seen.name, 0))

    def _measured(self, replicas: Sequence[Replica], beats: Sequence[Heartbeat], waiting: Waiting) -> Measures:
        states = [each.state for each in replicas]
        ready, serving = states.count("ready"), [beat for beat in beats if beat.ready]
        return Measures(
            waiting=waiting,
            ready=ready,
            starting=states.count("loading"),
            running=sum(beat.load.running for beat in serving),
            rows=self.plan.rows * ready,
            reloads=self._reloads.in_a_minute({beat.worker: beat.load.reloads for beat in serving}),
            slots=self.plan.slots * ready,
        )

    def _told_lack(self, replicas: Sequence[Replica]) -> str:
        placeless = sum(each.state == "waiting" and each.seconds >= PLACE_SECONDS for each in replicas)
        if not placeless:
            return ""
        who = "one replica waits" if placeless == 1 else f"{placeless} replicas wait"
        takes = f"{self.plan.cpus:g} CPU" + (f" and {self.plan.gpus:g} GPU" if self.plan.gpus else "")
        return f"{who} for a place: each takes {takes}, and no node has as much left"


class Reloads:
    """How often adapters came back to devices in the last minute, from counters that begin anew with each worker."""

    def __init__(self) -> None:
        self._last: Mapping[str, int] = {}
        self._grown: deque[tuple[float, int]] = deque()

    def in_a_minute(self, counters: Mapping[str, int]) -> float:
        now = time.monotonic()
        grown = sum(max(0, count - self._last.get(name, count)) for name, count in counters.items())
        self._last = counters
        self._grown.append((now, grown))
        while self._grown[0][0] < now - MINUTE:
            self._grown.popleft()
        return sum(count for _, count in self._grown)
