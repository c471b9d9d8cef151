"""Who waits on the wire in memory, and whose turn it is: the twin of `inference.wire.lines` in Redis."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from inference.wire.contract import (
    ALONE_ATTEMPTS,
    CLAIM_COST,
    EVALUATION_PATIENCE,
    ORPHAN_LEASES,
    SUSPECT_AFTER,
    tenant_of,
)
from inference.wire.fairness import INPUT_COST, OUTPUT_COST, VirtualCounters
from inference.wire.homes import LOOKS
from inference.wire.protocol import CLASSES, QueueClass, Request, Stats


@dataclass
class Waiting:
    """A request that has not ended. `deadline` is None until it is first claimed; `strikes` are the workers in a row
    that claimed it, the present one included, and did not give it another token. It came at time `since`, and at `left`
    it was first left for its home at the head of its tenant's line."""

    request: Request
    base: str
    queue_class: QueueClass
    deadline: float | None = None
    token: str = ""
    attempts: int = 0
    strikes: int = 0
    fingerprint: str = ""
    stopping: bool = False
    since: float = 0.0
    left: float | None = None


class Look(Protocol):
    """What one claim sees of the requests that were never claimed before."""

    def may_have(self, waiting: Waiting, is_head: bool) -> bool:
        """Whether the worker may have a request, at the head of its tenant's line or behind it."""

    def depth(self, queue_class: QueueClass, num_tenants: int) -> int:
        """How far to look into each line of a class; of so many tenants when it was asked first."""


class MemoryLine(dict[str, Waiting]):
    """The requests that have not ended, by their ids. `clock` tells seconds, `weights` are the shares of tenants.

    A worker is known here by its fingerprint, and its lease by its seconds.
    """

    def __init__(self, clock: Callable[[], float], weights: Mapping[str, float] | None) -> None:
        super().__init__()
        self._clock = clock
        self._counters: dict[tuple[str, QueueClass], VirtualCounters] = defaultdict(lambda: VirtualCounters(weights))
        self._passed: Counter[str] = Counter()
        self._seen: dict[tuple[str, str], float] = {}

    def enter(self, request: Request, base: str, queue_class: QueueClass) -> None:
        """One more request waits."""
        self[request.id] = Waiting(request, base, queue_class, since=self._clock())
        self._counters[base, queue_class].enter(tenant_of(request))

    def end(self, id: str, stats: Stats) -> Waiting | None:
        """Forget a request, and charge its tenant what it has cost."""
        waiting = self.pop(id, None)
        if waiting and waiting.deadline is None:
            self._leave(waiting)
        elif waiting:
            cost = INPUT_COST * stats.prompt_tokens + OUTPUT_COST * stats.completion_tokens
            self._charge(waiting, cost - CLAIM_COST)
        return waiting

    def take(self, waiting: Waiting, lease: float) -> None:
        """Give a request to a worker under a new token."""
        if waiting.deadline is None:
            self._leave(waiting)
            self._charge(waiting, CLAIM_COST)
        waiting.token = uuid.uuid4().hex
        waiting.attempts += 1
        waiting.strikes += 1
        waiting.deadline = self._clock() + lease

    def see(self, base: str, fingerprint: str) -> None:
        """A worker of this fingerprint is alive."""
        self._seen[base, fingerprint] = self._clock()

    def is_leased(self, waiting: Waiting) -> bool:
        return waiting.deadline is not None and waiting.deadline > self._clock()

    def of(self, base: str, queue_class: QueueClass) -> list[Waiting]:
        """Who waits, next first: those who were claimed before, then the least served tenant's, by arrival."""
        waiting = [entry for entry in self.values() if (entry.base, entry.queue_class) == (base, queue_class)]
        begun = [entry for entry in waiting if entry.deadline is not None and not self.is_leased(entry)]
        fresh = [entry for entry in waiting if entry.deadline is None]
        return sorted(begun, key=lambda entry: entry.deadline or 0.0) + self._in_turn(fresh, base, queue_class)

    def num_fresh(self, tenant: str, base: str, queue_class: QueueClass) -> int:
        """How many requests of `tenant` wait that were never claimed; none of nobody in particular."""
        fresh = [entry for entry in self.of(base, queue_class) if entry.deadline is None]
        return sum(tenant_of(entry.request) == tenant for entry in fresh) if tenant else 0

    def unanswerable(self, base: str, fingerprint: str, lease: float) -> list[tuple[Waiting, Any]]:
        """Those whom no worker will answer any more, and how they end."""
        every = [waiting for queue_class in CLASSES for waiting in self.of(base, queue_class)]
        outcomes = [(waiting, self._outcome(waiting, fingerprint, lease)) for waiting in every]
        return [(waiting, outcome) for waiting, outcome in outcomes if outcome not in ("", "other", "alone")]

    def suspect(self, base: str, fingerprint: str, lease: float) -> Waiting | None:
        """The first of those who may only be taken alone."""
        waiting = (entry for queue_class in CLASSES for entry in self.of(base, queue_class))
        return next((entry for entry in waiting if self._outcome(entry, fingerprint, lease) == "alone"), None)

    def next(self, base: str, fingerprint: str, lease: float, is_chat_only: bool, look: Look) -> Waiting | None:
        """Chat if there is any, unless it is evaluation's turn."""
        chats, others = (self._free(base, queue_class, fingerprint, lease) for queue_class in CLASSES)
        is_turn = others and not is_chat_only and self._passed[base] >= EVALUATION_PATIENCE
        first = self._first(others, look) if is_turn else None
        first = first or self._first(chats, look)
        if not first and not is_chat_only:
            first = self._first(others, look)
        if first:
            self._passed[base] = self._passed[base] + 1 if others and first.queue_class == "chat" else 0
        return first

    def newcomers(self, base: str, fingerprint: str, lease: float, present: Collection[str]) -> list[Waiting]:
        """The first chat of each tenant that is not yet `present`."""
        firsts: dict[str, Waiting] = {}
        for waiting in self._free(base, "chat", fingerprint, lease):
            firsts.setdefault(tenant_of(waiting.request), waiting)
        return [waiting for tenant, waiting in firsts.items() if tenant not in present]

    def _first(self, free: list[Waiting], look: Look) -> Waiting | None:
        """The first that may be had: those who were claimed before, then of the tenants in their turn the first of
        each one's own line."""
        if free and free[0].deadline is not None:
            return free[0]
        lines: dict[str, list[Waiting]] = {}
        for waiting in free:
            lines.setdefault(tenant_of(waiting.request), []).append(waiting)
        seen = list(lines.values())[:LOOKS]
        depth = look.depth(free[0].queue_class, len(seen)) if free else 0
        looked = ((waiting, place) for line in seen for place, waiting in enumerate(line[:depth]))
        return next((waiting for waiting, place in looked if look.may_have(waiting, place == 0)), None)

    def _free(self, base: str, queue_class: QueueClass, fingerprint: str, lease: float) -> list[Waiting]:
        return [entry for entry in self.of(base, queue_class) if not self._outcome(entry, fingerprint, lease)]

    def _outcome(self, waiting: Waiting, fingerprint: str, lease: float) -> str:
        """What becomes of a request that nobody owns: how it ends, "other" to leave it, or to take it "alone" or ""."""
        if waiting.deadline is None:
            return ""
        if waiting.stopping:
            return "stopped"
        if waiting.strikes >= SUSPECT_AFTER + ALONE_ATTEMPTS:
            return "worker_lost"
        if waiting.fingerprint in ("", fingerprint):
            return "alone" if waiting.strikes >= SUSPECT_AFTER else ""
        alive = self._seen.get((waiting.base, waiting.fingerprint), 0.0)
        patient = max(waiting.deadline, alive) + ORPHAN_LEASES * lease > self._clock()
        return "other" if patient else "fingerprint_changed"

    def _in_turn(self, waiting: list[Waiting], base: str, queue_class: QueueClass) -> list[Waiting]:
        """Those never claimed, as they will be claimed if nobody else comes; they come in order of arrival."""
        counters = self._counters[base, queue_class]
        turns: Counter[str] = Counter()
        starts: list[tuple[float, int]] = []
        for number, entry in enumerate(waiting):
            tenant = tenant_of(entry.request)
            starts.append((counters[tenant] + turns[tenant] * CLAIM_COST / counters.weight(tenant), number))
            turns[tenant] += 1
        return [waiting[number] for _, number in sorted(starts)]

    def _leave(self, waiting: Waiting) -> None:
        self._counters[waiting.base, waiting.queue_class].leave(tenant_of(waiting.request))

    def _charge(self, waiting: Waiting, cost: float) -> None:
        self._counters[waiting.base, waiting.queue_class].charge(tenant_of(waiting.request), cost)
