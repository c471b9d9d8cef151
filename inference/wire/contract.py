"""The contract of the wire between the site and the workers: what may be asked of it, whatever carries it.

`inference.wire.redis_wire` keeps this contract over Redis Streams, and for tests a twin inside one process.
An answer's stream holds entries numbered ``1-0, 2-0, …``; the number of its last entry is its length, so that
an append which is repeated after a broken connection can be recognised and writes nothing twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, Self

from inference.wire.capacity import Capacity
from inference.wire.digits import whole
from inference.wire.failures import FailureCode
from inference.wire.protocol import (
    Delta,
    Event,
    Failed,
    Finished,
    Generate,
    Heartbeat,
    Probe,
    Prompted,
    QueueClass,
    Request,
    Terminal,
)

SUSPECT_AFTER: Final = 2
"""A request is suspected once so many workers in a row ended before it had another token: it is then claimed alone."""
ALONE_ATTEMPTS: Final = 5
"""A suspect is given up when so many more ended that answered nothing else, again without a token in between."""
ORPHAN_LEASES: Final = 3
"""How many leases a started answer waits for a worker of its fingerprint when none is alive."""
CLAIM_COST: Final = 256.0
"""What a tenant is charged for a claim, in cost of tokens, until the end of the answer tells the real cost."""
EVALUATION_PATIENCE: Final = 16
"""Chats that may be claimed while evaluation waits; then it is its turn."""
HOME_PATIENCE: Final = 0.25
"""Seconds that a request waits for a worker that is its home, while another has room; then that one may take it. Less
would send adapters about, more would let rooms stand empty."""
SECOND_SHARE: Final = 0.2
"""Of this time those wait so much who are as good a choice, but not the first."""
RETRY_MS: Final = 60_000
"""A finished entry that a recorder read but did not commit is given out again after this time."""


Position = tuple[int, int]
"""A cursor as numbers."""
LAST_NUMBER: Final = 2**64 - 1
"""The largest that either part of a cursor can be, in Redis."""


class WireError(Exception):
    """The wire cannot be used now, or not in this way; the message says which."""


class QueueFull(WireError):
    """As many requests wait for this base as may; try again later."""

    def __init__(self, waiting: int, limit: int) -> None:
        super().__init__(f"{waiting} requests are waiting and at most {limit} may; try again in a moment")
        self.waiting = waiting
        self.limit = limit


class ShareTaken(QueueFull):
    """The tenant has as many requests waiting as there are places left: the others' share. Wait for some to begin."""

    def __init__(self, own: int, waiting: int, limit: int) -> None:
        super().__init__(waiting, limit)
        self.args = (f"{own} of your requests are waiting, as many as there are places left; wait for some to begin",)
        self.own = own


@dataclass(frozen=True)
class Resume:
    """What was streamed of an answer before this worker took it over."""

    token_ids: tuple[int, ...] = ()
    num_chars: int = 0
    num_prompted: int = 0
    """Tokens of the prompt of which it was told."""


@dataclass(frozen=True)
class Claim:
    """A request that one worker owns until its lease ends. Every write shows `token`, which no other claim has.

    `attempts` counts the workers that tried, this one included; `resumed` is what has been streamed already,
    None when nothing was; `length` is the number of entries in the answer's stream. `is_alone` forbids the worker
    to run anything else until the answer has grown by a token or ended: it gives back all that it has.
    """

    id: str
    request: Request
    token: str
    attempts: int
    resumed: Resume | None
    length: int
    fingerprint: str
    lease_seconds: float
    queue_class: QueueClass = "chat"
    is_alone: bool = False
    is_stolen: bool = False
    """Whether it was meant for another worker, which did not take it in time."""


class Claims(list[Claim]):
    """What one call claimed. In `again` seconds the first that was left for its home may be claimed by this worker too;
    None where none was left."""

    def __init__(self, claims: Iterable[Claim] = (), again: float | None = None) -> None:
        super().__init__(claims)
        self.again = again


@dataclass(frozen=True)
class Arrival:
    """A request that became claimable, and `meant` for these workers, for the first of them above all."""

    id: str
    meant: tuple[str, ...] = ()

    def after(self, worker: str, patience: float) -> float:
        """In how many seconds `worker` should ask for it, where others wait `patience` for whom it is meant."""
        if not self.meant or worker == self.meant[0]:
            return 0.0
        return patience * (SECOND_SHARE if worker in self.meant else 1.0)


@dataclass(frozen=True)
class Receipt:
    """What the wire answers to a worker: true while the claim is its own.

    `stopping` tells that a reader asked to stop; `length` is the number of entries that the answer's stream holds,
    less than expected after the wire lost its last second in a crash (then nothing was written: append again).
    """

    held: bool
    stopping: bool = False
    length: int = 0

    def __bool__(self) -> bool:
        return self.held


@dataclass(frozen=True)
class Write:
    """Events to append under `claim` behind the first `after` entries (None: behind whatever is there).

    Only the last event may be terminal. Entries that the stream already holds are skipped.
    """

    claim: Claim
    events: tuple[Event, ...]
    after: int | None = None

    def __post_init__(self) -> None:
        if any(isinstance(event, Finished | Failed) for event in self.events[:-1]):
            raise ValueError("only the last event of an append may be terminal")

    @property
    def terminal(self) -> Terminal | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Finished | Failed) else None

    @property
    def has_tokens(self) -> bool:
        return any(isinstance(event, Delta | Prompted) for event in self.events)


class Events(Protocol):
    """What follows one answer. A wait that is cancelled ends nothing: asked again, it goes on where it was."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> tuple[str, Event]: ...

    async def aclose(self) -> None: ...


class Wire(Protocol):
    """The wire as the site, the recorder and a worker see it. Every method raises `WireError` when it is down.

    A request waits `patience` seconds for its home.
    """

    patience: float

    # the site

    async def submit(self, request: Request, base: str, queue_class: QueueClass, limit: int) -> None:
        """Queue `request` for the workers of `base`. The same id again changes nothing.

        Raises `QueueFull` when `limit` requests of its class and those before it wait for this base, so that
        evaluation leaves place for chat; claimed ones do not count. Raises `ShareTaken` when as many of its tenant's
        wait as there are places left: alone it fills half of the queue, one of n tenants the n+1-th part, and as
        much is left for whoever comes next. Requests of nobody in particular have no share.
        """

    async def stop(self, id: str) -> None:
        """End an unclaimed request at once, ask the worker of a claimed one to; no effect after the end."""

    async def place(self, id: str) -> int | None:
        """How many requests are to be served before this one; None when it is claimed, ended or unknown."""

    def events(self, id: str, after: str = "0-0") -> Events:
        """Every event behind the cursor `after` as (cursor, event), those to come included, up to the terminal one.

        An iterator over an id that nobody submits waits until it is cancelled or closed.
        """

    async def history(self, id: str) -> list[tuple[str, Event]]:
        """Every event so far as (cursor, event); empty when there is none or the stream has expired."""

    async def histories(self, ids: Sequence[str]) -> list[list[tuple[str, Event]]]:
        """`history` of each, in one round trip."""

    async def exists(self, id: str) -> bool:
        """Whether the wire knows this id: it is queued, claimed, or its stream has not yet expired."""

    async def fail(self, id: str, failure: Failed) -> bool:
        """End a request that no live worker owns, even one the wire never saw. False when owned or ended."""

    async def queue_length(self, base: str) -> int:
        """How many requests of all classes wait for `base`; claimed ones do not count."""

    async def heartbeats(self, base: str) -> list[Heartbeat]:
        """What the live workers of `base` told last, in order of their names."""

    # the recorder

    async def finished(
        self, consumer: str, count: int, block_ms: int
    ) -> list[tuple[str, Generate | Probe | None, Terminal]]:
        """Ended requests to record, as (entry, request, terminal event); waits up to `block_ms` for one.

        A new wire first gives out again what `consumer` read and did not commit, and any consumer gets what
        another left uncommitted for `RETRY_MS`. The request is None when `fail` ended an id that was never queued.
        """

    async def committed(self, entries: Mapping[str, str], ttl_seconds: int) -> None:
        """Tell that `entries` of `finished`, each with its request's id, are safe elsewhere; the streams of their
        answers expire after `ttl_seconds`."""

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
        """Own as many requests as there is `capacity` for; its newcomers are of tenants not yet `present`. The worker
        has had an idle row, `had_room`, for so many seconds.

        Chat comes before evaluation, which is its turn after `EVALUATION_PATIENCE` chats; in a class those whose
        lease has ended before new ones; among these the tenant that has been served least, in order of arrival.

        A new request goes to its home, a live worker that holds its adapter, or knows its conversation, or is to do so
        (`inference.wire.homes`): others leave it where it stands, and take the next one that is not another's. That
        ends `HOME_PATIENCE` after a worker had an idle row for it, and some of its home's claims after its turn, when
        it was among the first and others were claimed. Where only one worker lives nothing is left.

        An answer that has streamed goes only to a worker of its fingerprint. A suspect comes before all others, as
        the only claim of its call, for the worker to be alone with. Ends on the way what nobody can
        answer any more: requests stopped by their reader, given up after `ALONE_ATTEMPTS`, of a fingerprint that
        no live worker has had for `ORPHAN_LEASES`, or written by another version of the wire.
        """

    async def renew(self, claims: Sequence[Claim]) -> list[Receipt]:
        """Begin the lease of each anew; false when another worker owns the request or it has ended."""

    async def append(self, claim: Claim, events: Sequence[Event], after: int | None = None) -> Receipt:
        """Write events as `Write` says; false, and nothing written, when the claim is lost."""

    async def append_all(self, writes: Sequence[Write]) -> list[Receipt]:
        """Do many appends in one round trip; each stands alone. Receipts in the order of `writes`."""

    async def finish(self, claim: Claim, terminal: Terminal, after: int | None = None) -> Receipt:
        """Append the terminal event, tell the recorder and leave the queue, in one transaction."""

    async def release(self, claim: Claim, crashed: bool = False) -> None:
        """End the lease now, for another worker to go on. Counts as the end of a worker only if `crashed`."""

    def stops(self) -> AsyncIterator[str]:
        """Ids that readers stop while they are claimed. May miss some: `Receipt.stopping` never does."""

    def arrivals(self, base: str) -> AsyncIterator[Arrival]:
        """What becomes claimable. May miss some: ask `claim` now and then even when nothing arrives."""

    async def beat(self, heartbeat: Heartbeat, ttl_seconds: float) -> None:
        """Show that a worker lives, and what it holds; forgotten after `ttl_seconds`. Who is ready may be a home."""

    async def depart(self, base: str, worker: str) -> None:
        """Take a worker's heartbeat away at once. It is nobody's home any more."""

    async def aclose(self) -> None:
        """Let go of connections and end every iterator that waits."""


def tenant_of(request: Request) -> str:
    """Who is served by `request`; nobody in particular by a probe."""
    return request.tenant if isinstance(request, Generate) else ""


def position_of(cursor: str) -> Position:
    """A cursor as two numbers. Raises ValueError when it is not of the form ``12-0``, or beyond every stream."""
    first, _, second = cursor.partition("-")
    try:
        return whole(first, LAST_NUMBER), whole(second, LAST_NUMBER)
    except ValueError as error:
        raise ValueError(f"cursor {cursor[:80]!r} is not of the form 12-0: {error}") from None


def resume_of(events: Sequence[Event]) -> Resume | None:
    """What `events` have streamed, None when they hold no token."""
    deltas = [event for event in events if isinstance(event, Delta)]
    token_ids = tuple(token for delta in deltas for token in delta.token_ids)
    num_prompted = sum(len(event.tokens) for event in events if isinstance(event, Prompted))
    if not token_ids and not num_prompted:
        return None
    return Resume(token_ids, sum(len(delta.text) for delta in deltas), num_prompted)


def terminal_of(id: str, end: Literal["stopped"] | FailureCode) -> Terminal:
    """The terminal event of a request that no worker will answer any more."""
    return Finished(id, "stopped") if end == "stopped" else Failed(id, end, _SENTENCES[end])


_SENTENCES: Final[dict[FailureCode, str]] = {
    "worker_lost": "Five workers ended while they answered nothing but this. Change the prompt or try again later.",
    "fingerprint_changed": "The worker that began this answer has gone and no other computes alike. Send it again.",
    "invalid_request": "This request was written by another version of the site. Reload the page and send it again.",
    "internal": "This answer was written by another version of the site. Reload the page and send it again.",
}
