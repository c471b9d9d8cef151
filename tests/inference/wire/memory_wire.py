"""The wire inside one process: the twin of `inference.wire.redis_wire` where no Redis is needed.

It keeps the same contract with plain dictionaries; one event loop, no persistence.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from inference.wire.capacity import Capacity
from inference.wire.contract import (
    HOME_PATIENCE,
    RETRY_MS,
    Arrival,
    Claim,
    Claims,
    QueueFull,
    Receipt,
    ShareTaken,
    Write,
    position_of,
    resume_of,
    tenant_of,
    terminal_of,
)
from inference.wire.homes import LOOKS
from inference.wire.lease import check_id
from inference.wire.protocol import (
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
from tests.inference.wire.memory_homes import MemoryHomes
from tests.inference.wire.memory_line import MemoryLine, Waiting


@dataclass
class _Ended:
    """A terminal event for the recorders. `reader` has read it, at time `read`, and not yet committed it."""

    request: Request | None
    terminal: Terminal
    reader: str = ""
    read: float = 0.0


class _Look:
    """What `worker`, which has room since `room_since`, sees of requests that may be meant for others."""

    def __init__(self, homes: MemoryHomes, worker: str, room_since: float, turns: int) -> None:
        self.turns = turns
        self._homes, self._worker, self._room_since = homes, worker, room_since
        self._open: dict[str, bool] = {}
        self._depths: dict[QueueClass, int] = {}
        self.stolen: set[str] = set()
        self.again: float | None = None

    def may_have(self, waiting: Waiting, is_head: bool) -> bool:
        if not self._homes.is_routed(self._worker):
            return True
        if waiting.request.id not in self._open:
            self._open[waiting.request.id] = self._may_have(waiting, is_head)
        return self._open[waiting.request.id]

    def depth(self, queue_class: QueueClass, num_tenants: int) -> int:
        return self._depths.setdefault(queue_class, LOOKS // num_tenants)

    def _may_have(self, waiting: Waiting, is_head: bool) -> bool:
        if self._homes.is_meant(waiting.request, self._worker):
            return True
        since = max(waiting.since, self._room_since)
        if is_head and waiting.left is None and self.turns > 0:
            waiting.left, self.turns = since, self.turns - 1
        rest = self._homes.rest(waiting.request, self._worker, since, waiting.left if is_head else None)
        if rest > 0:
            self.again = rest if self.again is None else min(self.again, rest)
            return False
        self.stolen.add(waiting.request.id)
        return True


class MemoryEvents:
    """Follows one answer of `wire`, of which `number` events are known."""

    def __init__(self, wire: MemoryWire, id: str, number: int) -> None:
        self._wire, self._id, self._number, self._is_over = wire, id, number, False

    def __aiter__(self) -> MemoryEvents:
        return self

    async def __anext__(self) -> tuple[str, Event]:
        event = None if self._is_over else await self._wire.event(self._id, self._number)
        if event is None:
            raise StopAsyncIteration
        self._number += 1
        self._is_over = is_terminal(event)
        return f"{self._number}-0", event

    async def aclose(self) -> None:
        self._is_over = True


class MemoryWire:
    """The wire that `inference.wire.contract.Wire` describes, without a server. `clock` tells seconds.

    `weights` are the shares of tenants, by their name or kind, in what is claimed; `patience` is how many seconds a
    request waits for its home.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        weights: Mapping[str, float] | None = None,
        patience: float = HOME_PATIENCE,
    ) -> None:
        self._clock = clock
        self.patience = patience
        self._homes: dict[str, MemoryHomes] = defaultdict(lambda: MemoryHomes(clock, patience))
        self._requests = MemoryLine(clock, weights)
        self._streams: dict[str, list[Event]] = {}
        self._expiries: dict[str, float] = {}
        self._ended: dict[str, _Ended] = {}
        self._entries = itertools.count(1)
        self._heartbeats: dict[tuple[str, str], tuple[float, Heartbeat]] = {}
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
        classes = CLASSES[: CLASSES.index(queue_class) + 1]
        waiting = sum(len(self._requests.of(base, other)) for other in classes)
        if waiting >= limit:
            raise QueueFull(waiting, limit)
        if (own := self._requests.num_fresh(tenant_of(request), base, queue_class)) >= limit - waiting:
            raise ShareTaken(own, waiting, limit)
        self._requests.enter(request, base, queue_class)
        homes = self._homes[base].meant(request) if self._homes[base].is_routed("") else []
        self._publish(f"arrivals:{base}", "\n".join((request.id, *homes)))

    async def stop(self, id: str) -> None:
        waiting = self._requests.get(check_id(id))
        if waiting and self._requests.is_leased(waiting):
            waiting.stopping = True
            self._publish("stops", id)
        elif waiting:
            self._end(id, Finished(id, "stopped"))

    async def place(self, id: str) -> int | None:
        mine = self._requests.get(check_id(id))
        if mine is None or self._requests.is_leased(mine):
            return None
        line = [waiting for queue_class in CLASSES for waiting in self._requests.of(mine.base, queue_class)]
        return line.index(mine)

    def events(self, id: str, after: str = "0-0") -> MemoryEvents:
        number, second = position_of(after)
        return MemoryEvents(self, check_id(id), number + (second > 0))

    async def event(self, id: str, number: int) -> Event | None:
        """The event behind the first `number` of an answer, once it is there; None when the wire has been closed."""
        while not self._closed:
            if len(stream := self._stream(id)) > number:
                return stream[number]
            await self._change()
        return None

    async def history(self, id: str) -> list[tuple[str, Event]]:
        return [(f"{number}-0", event) for number, event in enumerate(self._stream(check_id(id)), 1)]

    async def histories(self, ids: Sequence[str]) -> list[list[tuple[str, Event]]]:
        return [await self.history(id) for id in ids]

    async def exists(self, id: str) -> bool:
        return check_id(id) in self._requests or bool(self._stream(id))

    async def fail(self, id: str, failure: Failed) -> bool:
        waiting = self._requests.get(check_id(id))
        if self._requests.is_leased(waiting) if waiting else self._stream(id):
            return False
        self._end(id, failure)
        return True

    async def queue_length(self, base: str) -> int:
        return sum(len(self._requests.of(base, queue_class)) for queue_class in CLASSES)

    async def heartbeats(self, base: str) -> list[Heartbeat]:
        now = self._clock()
        beats = sorted(self._heartbeats.items())
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

    async def committed(self, entries: Mapping[str, str], ttl_seconds: int) -> None:
        for entry, id in entries.items():
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
        capacity: Capacity,
        lease_seconds: float,
        present: Collection[str] = (),
        had_room: float = 0.0,
    ) -> Claims:
        if self._homes[base].is_routed(worker):
            self._homes[base].set_room(worker, capacity.idle)
        for waiting, outcome in self._requests.unanswerable(base, fingerprint, lease_seconds):
            claim = self._own(waiting, fingerprint, lease_seconds)
            await self.finish(claim, terminal_of(claim.id, outcome))
        suspect = self._requests.suspect(base, fingerprint, lease_seconds)
        if suspect and capacity:
            claim = self._take(suspect, worker, fingerprint, lease_seconds)
            self._homes[base].set_room(worker, 0)
            return Claims([replace(claim, is_alone=True)])
        turns = capacity.total + capacity.chat + capacity.newcomers
        look = _Look(self._homes[base], worker, self._clock() - had_room, turns)
        claims = Claims()
        for turn in range(capacity.total + capacity.chat):
            is_chat_only = turn >= capacity.total
            first = self._requests.next(base, fingerprint, lease_seconds, is_chat_only, look)
            if first is None:
                break
            claims.append(self._take(first, worker, fingerprint, lease_seconds, first.request.id in look.stolen))
            look.turns -= 1
        present = {*present, *(tenant_of(claim.request) for claim in claims if claim.queue_class == "chat")}
        left = capacity.newcomers
        for first in self._requests.newcomers(base, fingerprint, lease_seconds, present):
            if left and (first.deadline is not None or look.may_have(first, True)):
                claims.append(self._take(first, worker, fingerprint, lease_seconds, first.request.id in look.stolen))
                left, look.turns = left - 1, look.turns - 1
        if claims and self._homes[base].is_routed(worker):
            self._homes[base].count_claims(worker, len(claims))
        self._homes[base].forget_dead(worker)
        claims.again = look.again
        return claims

    def _take(self, waiting: Waiting, worker: str, fingerprint: str, lease: float, is_stolen: bool = False) -> Claim:
        if self._homes[waiting.base].is_routed(worker):
            self._homes[waiting.base].settle(worker, waiting.request)
        return self._own(waiting, fingerprint, lease, is_stolen)

    def _own(self, waiting: Waiting, fingerprint: str, lease: float, is_stolen: bool = False) -> Claim:
        self._requests.take(waiting, lease)
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
            is_stolen=is_stolen,
        )

    async def renew(self, claims: Sequence[Claim]) -> list[Receipt]:
        for claim in claims:
            if waiting := self._owned(claim):
                waiting.deadline = self._clock() + claim.lease_seconds
        return [self._receipt(claim) for claim in claims]

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
        fresh = events[len(stream) - after :]
        if write.has_tokens and fresh:
            waiting.strikes = 0
        self._streams.setdefault(claim.id, []).extend(fresh)
        if write.terminal:
            self._end(claim.id, write.terminal)
            return Receipt(True, length=len(self._stream(claim.id)))
        self._wake()
        return self._receipt(claim)

    async def release(self, claim: Claim, crashed: bool = False) -> None:
        if waiting := self._owned(claim):
            waiting.token, waiting.deadline = "", self._clock()
            waiting.attempts -= not crashed
            waiting.strikes = max(0, waiting.strikes - (not crashed))
            self._publish(f"arrivals:{waiting.base}", claim.id)

    def stops(self) -> AsyncIterator[str]:
        return self._messages("stops")

    async def arrivals(self, base: str) -> AsyncIterator[Arrival]:
        async with aclosing(self._messages(f"arrivals:{base}")) as told:
            async for message in told:
                id, *meant = message.split("\n")
                yield Arrival(id, tuple(meant))

    async def beat(self, heartbeat: Heartbeat, ttl_seconds: float) -> None:
        self._heartbeats[heartbeat.base, heartbeat.worker] = (self._clock() + ttl_seconds, heartbeat)
        self._homes[heartbeat.base].beat(heartbeat, ttl_seconds)
        if heartbeat.fingerprint:
            self._requests.see(heartbeat.base, heartbeat.fingerprint)

    async def depart(self, base: str, worker: str) -> None:
        self._heartbeats.pop((base, worker), None)
        self._homes[base].depart(worker)

    # inside

    def _stream(self, id: str) -> list[Event]:
        if self._expiries.get(id, float("inf")) <= self._clock():
            self._streams.pop(id, None)
        return self._streams.get(id, [])

    def _owned(self, claim: Claim) -> Waiting | None:
        waiting = self._requests.get(claim.id)
        return waiting if waiting and waiting.token == claim.token else None

    def _receipt(self, claim: Claim) -> Receipt:
        waiting = self._owned(claim)
        return Receipt(True, waiting.stopping, len(self._stream(claim.id))) if waiting else Receipt(False)

    def _end(self, id: str, terminal: Terminal) -> None:
        waiting = self._requests.end(id, terminal.stats)
        self._streams.setdefault(id, []).append(terminal)
        self._ended[f"{next(self._entries)}-0"] = _Ended(waiting.request if waiting else None, terminal)
        self._wake()

    def _publish(self, channel: str, id: str) -> None:
        for queue in self._channels.get(channel, ()):
            queue.put_nowait(id)

    async def _messages(self, channel: str) -> AsyncGenerator[str, None]:
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
