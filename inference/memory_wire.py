"""The wire inside one process: the twin of `inference.redis_wire` that tests use where no Redis is needed.

It keeps the same contract with plain dictionaries; one event loop, no persistence.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inference.fairness import INPUT_COST, OUTPUT_COST, VirtualCounters
from inference.protocol import (
    CLASSES,
    Event,
    Failed,
    Finished,
    Generate,
    Heartbeat,
    Probe,
    QueueClass,
    Request,
    Terminal,
    is_terminal,
)
from inference.room import Room
from inference.wire import (
    CLAIM_COST,
    EVALUATION_PATIENCE,
    MAX_ATTEMPTS,
    ORPHAN_LEASES,
    RETRY_MS,
    Claim,
    QueueFull,
    Receipt,
    Write,
    check_id,
    position_of,
    resume_of,
    tenant_of,
    verdict,
)


@dataclass
class _Waiting:
    """A request that has not ended. `deadline` is None until it is first claimed."""

    request: Request
    base: str
    queue_class: QueueClass
    deadline: float | None = None
    token: str = ""
    attempts: int = 0
    fingerprint: str = ""
    stopping: bool = False


@dataclass
class _Ended:
    """A terminal event for the recorders. `reader` has read it, at time `read`, and not yet committed it."""

    request: Request | None
    terminal: Terminal
    reader: str = ""
    read: float = 0.0


@dataclass
class _Beats:
    heartbeats: dict[tuple[str, str], tuple[float, Heartbeat]] = field(default_factory=dict)
    fingerprints: dict[tuple[str, str], float] = field(default_factory=dict)


class MemoryWire:
    """The wire that `inference.wire.Wire` describes, without a server. `clock` tells seconds.

    `weights` are the shares of tenants, by their name or kind, in what is claimed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, weights: Mapping[str, float] | None = None) -> None:
        self._clock = clock
        self._counters: dict[tuple[str, QueueClass], VirtualCounters] = defaultdict(lambda: VirtualCounters(weights))
        self._passed: Counter[str] = Counter()
        self._requests: dict[str, _Waiting] = {}
        self._streams: dict[str, list[Event]] = {}
        self._expiries: dict[str, float] = {}
        self._ended: dict[str, _Ended] = {}
        self._entries = itertools.count(1)
        self._beats = _Beats()
        self._channels: dict[str, set[asyncio.Queue[str]]] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False

    async def aclose(self) -> None:
        self._closed = True
        self._wake()

    async def __aenter__(self) -> MemoryWire:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # the site

    async def submit(self, request: Request, base: str, queue_class: QueueClass, limit: int) -> None:
        if await self.exists(check_id(request.id)):
            return
        counted = CLASSES[: CLASSES.index(queue_class) + 1]
        waiting = sum(len(self._line(base, each)) for each in counted)
        if waiting >= limit:
            raise QueueFull(waiting, limit)
        self._requests[request.id] = _Waiting(request, base, queue_class)
        self._counters[base, queue_class].enter(tenant_of(request))
        self._publish(f"arrivals:{base}", request.id)

    async def stop(self, id: str) -> None:
        waiting = self._requests.get(check_id(id))
        if waiting and self._is_leased(waiting):
            waiting.stopping = True
            self._publish("stops", id)
        elif waiting:
            self._end(id, Finished(id, "stopped"))

    async def place(self, id: str) -> int | None:
        mine = self._requests.get(check_id(id))
        if mine is None or self._is_leased(mine):
            return None
        line = [waiting for queue_class in CLASSES for waiting in self._line(mine.base, queue_class)]
        return line.index(mine)

    async def events(self, id: str, after: str = "0-0") -> AsyncIterator[tuple[str, Event]]:
        check_id(id)
        number, second = position_of(after)
        number += second > 0
        while not self._closed:
            for event in self._stream(id)[number:]:
                number += 1
                yield f"{number}-0", event
                if is_terminal(event):
                    return
            if len(self._stream(id)) <= number:
                await self._change()

    async def history(self, id: str) -> list[tuple[str, Event]]:
        return [(f"{number}-0", event) for number, event in enumerate(self._stream(check_id(id)), 1)]

    async def exists(self, id: str) -> bool:
        return check_id(id) in self._requests or bool(self._stream(id))

    async def fail(self, id: str, failure: Failed) -> bool:
        waiting = self._requests.get(check_id(id))
        if self._is_leased(waiting) if waiting else self._stream(id):
            return False
        self._end(id, failure)
        return True

    async def queue_length(self, base: str) -> int:
        return sum(len(self._line(base, queue_class)) for queue_class in CLASSES)

    async def heartbeats(self, base: str) -> list[Heartbeat]:
        now = self._clock()
        beats = sorted(self._beats.heartbeats.items())
        return [beat for (of, _), (expiry, beat) in beats if of == base and expiry > now]

    # the recorder

    async def finished(
        self, consumer: str, count: int, block_ms: int
    ) -> list[tuple[str, Generate | Probe | None, Terminal]]:
        if not any(self._is_unread(ended) for ended in self._ended.values()):
            await self._change(block_ms / 1000)
        unread = [(entry, ended) for entry, ended in self._ended.items() if self._is_unread(ended)][:count]
        for _, ended in unread:
            ended.reader, ended.read = consumer, self._clock()
        return [(entry, ended.request, ended.terminal) for entry, ended in unread]

    async def committed(self, entry: str, id: str, ttl_seconds: int) -> None:
        self._ended.pop(entry, None)
        self._expiries[id] = self._clock() + ttl_seconds

    def _is_unread(self, ended: _Ended) -> bool:
        return not ended.reader or self._clock() - ended.read >= RETRY_MS / 1000

    # a worker

    async def claim(
        self,
        base: str,
        worker: str,
        fingerprint: str,
        room: Room,
        lease_seconds: float,
        held: Collection[str] = (),
    ) -> list[Claim]:
        await self._end_doomed(base, fingerprint, lease_seconds)
        claims: list[Claim] = []
        for turn in range(room.total + room.chat):
            waiting = self._next(base, fingerprint, lease_seconds, is_chat_only=turn >= room.total)
            if waiting is None:
                break
            claims.append(self._take(waiting, fingerprint, lease_seconds))
        hosts = {*held, *(tenant_of(claim.request) for claim in claims if claim.queue_class == "chat")}
        for waiting in self._guests(base, fingerprint, lease_seconds, hosts)[: room.guests]:
            claims.append(self._take(waiting, fingerprint, lease_seconds))
        return claims

    async def _end_doomed(self, base: str, fingerprint: str, lease: float) -> None:
        for waiting in [each for queue_class in CLASSES for each in self._line(base, queue_class)]:
            doom = self._judge(waiting, fingerprint, lease)
            if doom not in ("", "other"):
                claim = self._take(waiting, fingerprint, lease)
                await self.finish(claim, verdict(claim.id, doom))

    def _free(self, base: str, queue_class: QueueClass, fingerprint: str, lease: float) -> list[_Waiting]:
        return [each for each in self._line(base, queue_class) if not self._judge(each, fingerprint, lease)]

    def _next(self, base: str, fingerprint: str, lease: float, is_chat_only: bool) -> _Waiting | None:
        """Chat if there is any, unless it is evaluation's turn."""
        chats, others = (self._free(base, queue_class, fingerprint, lease) for queue_class in CLASSES)
        is_turn = others and not is_chat_only and self._passed[base] >= EVALUATION_PATIENCE
        if chats and not is_turn:
            self._passed[base] = self._passed[base] + 1 if others else 0
            return chats[0]
        if not others or is_chat_only:
            return None
        self._passed[base] = 0
        return others[0]

    def _guests(self, base: str, fingerprint: str, lease: float, hosts: set[str]) -> list[_Waiting]:
        """The first chat of each tenant that is not among `hosts`."""
        guests: dict[str, _Waiting] = {}
        for waiting in self._free(base, "chat", fingerprint, lease):
            guests.setdefault(tenant_of(waiting.request), waiting)
        return [waiting for tenant, waiting in guests.items() if tenant not in hosts]

    def _judge(self, waiting: _Waiting, fingerprint: str, lease: float) -> str:
        """What becomes of a request that nobody owns: its doom, "other" to leave it, or "" to take it."""
        if waiting.deadline is None:
            return ""
        if waiting.stopping:
            return "stopped"
        if waiting.attempts >= MAX_ATTEMPTS:
            return "worker_lost"
        if waiting.fingerprint in ("", fingerprint):
            return ""
        alive = self._beats.fingerprints.get((waiting.base, waiting.fingerprint), 0.0)
        patient = max(waiting.deadline, alive) + ORPHAN_LEASES * lease > self._clock()
        return "other" if patient else "fingerprint_changed"

    def _take(self, waiting: _Waiting, fingerprint: str, lease: float) -> Claim:
        if waiting.deadline is None:
            self._leave(waiting)
            self._charge(waiting, CLAIM_COST)
        waiting.token = uuid.uuid4().hex
        waiting.attempts += 1
        waiting.deadline = self._clock() + lease
        stream = self._stream(waiting.request.id)
        return Claim(
            id=waiting.request.id,
            request=waiting.request,
            token=waiting.token,
            attempts=waiting.attempts,
            resumed=resume_of(stream),
            length=len(stream),
            fingerprint=fingerprint,
            lease_seconds=lease,
            queue_class=waiting.queue_class,
        )

    def _leave(self, waiting: _Waiting) -> None:
        self._counters[waiting.base, waiting.queue_class].leave(tenant_of(waiting.request))

    def _charge(self, waiting: _Waiting, cost: float) -> None:
        self._counters[waiting.base, waiting.queue_class].charge(tenant_of(waiting.request), cost)

    async def renew(self, claim: Claim) -> Receipt:
        if waiting := self._owned(claim):
            waiting.deadline = self._clock() + claim.lease_seconds
        return self._receipt(claim)

    async def append(self, claim: Claim, events: Sequence[Event], after: int | None = None) -> Receipt:
        return self._write(Write(claim, tuple(events), after))

    async def append_all(self, writes: Sequence[Write]) -> list[Receipt]:
        return [self._write(write) for write in writes]

    async def finish(self, claim: Claim, terminal: Terminal, after: int | None = None) -> Receipt:
        return await self.append(claim, [terminal], after)

    def _write(self, write: Write) -> Receipt:
        claim, stream = write.claim, self._stream(write.claim.id)
        after = len(stream) if write.after is None else write.after
        waiting = self._owned(claim)
        if waiting is None or after > len(stream):
            return self._receipt(claim)
        if write.has_tokens:
            waiting.fingerprint = waiting.fingerprint or claim.fingerprint
        events = write.events[:-1] if write.terminal else write.events
        self._streams.setdefault(claim.id, []).extend(events[len(stream) - after :])
        if write.terminal:
            self._end(claim.id, write.terminal)
            return Receipt(True, length=len(self._stream(claim.id)))
        self._wake()
        return self._receipt(claim)

    async def release(self, claim: Claim, crashed: bool = False) -> None:
        if waiting := self._owned(claim):
            waiting.token, waiting.deadline = "", self._clock()
            waiting.attempts -= not crashed
            self._publish(f"arrivals:{waiting.base}", claim.id)

    def stops(self) -> AsyncIterator[str]:
        return self._messages("stops")

    def arrivals(self, base: str) -> AsyncIterator[str]:
        return self._messages(f"arrivals:{base}")

    async def beat(self, heartbeat: Heartbeat, ttl_seconds: float) -> None:
        now, base = self._clock(), heartbeat.base
        self._beats.heartbeats[base, heartbeat.worker] = (now + ttl_seconds, heartbeat)
        if heartbeat.fingerprint:
            self._beats.fingerprints[base, heartbeat.fingerprint] = now

    async def depart(self, base: str, worker: str) -> None:
        self._beats.heartbeats.pop((base, worker), None)

    # inside

    def _stream(self, id: str) -> list[Event]:
        if self._expiries.get(id, float("inf")) <= self._clock():
            self._streams.pop(id, None)
        return self._streams.get(id, [])

    def _line(self, base: str, queue_class: QueueClass) -> list[_Waiting]:
        """Who waits, next first: those who were claimed before, then the least served tenant's, by arrival."""
        waiting = [each for each in self._requests.values() if (each.base, each.queue_class) == (base, queue_class)]
        begun = [each for each in waiting if each.deadline is not None and not self._is_leased(each)]
        fresh = [each for each in waiting if each.deadline is None]
        return sorted(begun, key=lambda each: each.deadline or 0.0) + self._in_turn(fresh, base, queue_class)

    def _in_turn(self, waiting: list[_Waiting], base: str, queue_class: QueueClass) -> list[_Waiting]:
        """Those never claimed, as they will be claimed if nobody else comes; they come in order of arrival."""
        counters = self._counters[base, queue_class]
        turns: Counter[str] = Counter()
        starts: list[tuple[float, int]] = []
        for number, each in enumerate(waiting):
            tenant = tenant_of(each.request)
            starts.append((counters[tenant] + turns[tenant] * CLAIM_COST / counters.weight(tenant), number))
            turns[tenant] += 1
        return [waiting[number] for _, number in sorted(starts)]

    def _is_leased(self, waiting: _Waiting) -> bool:
        return waiting.deadline is not None and waiting.deadline > self._clock()

    def _owned(self, claim: Claim) -> _Waiting | None:
        waiting = self._requests.get(claim.id)
        return waiting if waiting and waiting.token == claim.token else None

    def _receipt(self, claim: Claim) -> Receipt:
        waiting = self._owned(claim)
        return Receipt(True, waiting.stopping, len(self._stream(claim.id))) if waiting else Receipt(False)

    def _end(self, id: str, terminal: Terminal) -> None:
        waiting = self._requests.pop(id, None)
        if waiting and waiting.deadline is None:
            self._leave(waiting)
        elif waiting:
            stats = terminal.stats
            cost = INPUT_COST * stats.prompt_tokens + OUTPUT_COST * stats.completion_tokens
            self._charge(waiting, cost - CLAIM_COST)
        self._streams.setdefault(id, []).append(terminal)
        self._ended[f"{next(self._entries)}-0"] = _Ended(waiting.request if waiting else None, terminal)
        self._wake()

    def _publish(self, channel: str, id: str) -> None:
        for queue in self._channels.get(channel, ()):
            queue.put_nowait(id)

    async def _messages(self, channel: str) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._channels.setdefault(channel, set()).add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._channels[channel].discard(queue)

    def _wake(self) -> None:
        waiters: Iterator[asyncio.Future[None]] = iter(self._waiters)
        self._waiters = set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self, seconds: float | None = None) -> None:
        """Return when any stream has grown, or after `seconds`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            self._waiters.discard(waiter)
