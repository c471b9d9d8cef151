"""The wire over Redis Streams: one round trip a call, every decision inside a script.

It knows the keys and who may write; `inference.wire.redis_reader` tails the answers, `inference.wire.redis_finished`
reads what has ended, and `inference.wire.scripts` holds the transactions. One `RedisWire` serves one event loop.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from typing import Any, Final, Literal

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from inference.wire import scripts
from inference.wire.affinity import affinity_of, short
from inference.wire.capacity import Capacity
from inference.wire.claiming import CLAIM
from inference.wire.codec import ProtocolError
from inference.wire.contract import (
    ALONE_ATTEMPTS,
    EVALUATION_PATIENCE,
    HOME_PATIENCE,
    ORPHAN_LEASES,
    SUSPECT_AFTER,
    Arrival,
    Claim,
    Claims,
    QueueFull,
    Receipt,
    ShareTaken,
    WireError,
    Write,
    resume_of,
    tenant_of,
    terminal_of,
)
from inference.wire.failures import FailureCode
from inference.wire.lease import check_id, milliseconds
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
    decode,
    encode,
)
from inference.wire.redis_finished import FINISHED, RECORDERS, FinishedReader
from inference.wire.redis_messages import messages
from inference.wire.redis_reader import LONGEST_BLOCK_MS, RawEntries, Reader, Tail, read_entries

STOPS: Final = "generation:stops"
MAX_CONNECTIONS: Final = 64


class RedisWire:
    """The wire that `inference.wire.contract.Wire` describes, over the Redis server behind `client`.

    `weights` are the shares of tenants, by their name or kind, in what is claimed; `patience` is how many seconds a
    request waits for its home.
    """

    def __init__(
        self, client: Redis, weights: Mapping[str, float] | None = None, patience: float = HOME_PATIENCE
    ) -> None:
        if not client.connection_pool.connection_kwargs.get("decode_responses"):
            raise WireError("RedisWire reads text: give it a client made with decode_responses=True")
        self._client = client
        self._weights = json.dumps(dict(weights or {}))
        self.patience = patience
        self._reader = Reader(client)
        self._finished = FinishedReader(client)
        self._script = cache(client.register_script)

    @classmethod
    def connect(
        cls, url: str, weights: Mapping[str, float] | None = None, patience: float = HOME_PATIENCE
    ) -> RedisWire:
        """A wire with its own connections to the server at `url`; it connects when first used."""
        retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), 2)
        # A burst of calls waits for a connection; the ordinary pool would refuse those past its hundredth.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=20,
            decode_responses=True,
            protocol=2,
            retry=retry,
            socket_timeout=10,
        )
        return cls(Redis.from_pool(pool), weights, patience)

    async def _call(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        return await _answer(self._script(script)(keys, arguments))

    async def aclose(self) -> None:
        await self._reader.aclose()
        await self._client.aclose()

    async def __aenter__(self) -> RedisWire:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # the site

    async def submit(self, request: Request, base: str, queue_class: QueueClass, limit: int) -> None:
        affinity = affinity_of(request)
        args: list[str | int] = [check_id(request.id), encode(request), limit, tenant_of(request), base]
        args += [" ".join(affinity.digests), affinity.conversation, affinity.continues]
        counted = queue_keys(base)[: CLASSES.index(queue_class) + 1]
        if refused := await self._call(scripts.SUBMIT, [queue_key(base, queue_class), *counted], args):
            waiting, own = refused
            raise ShareTaken(own, waiting, limit) if waiting < limit else QueueFull(waiting, limit)

    async def stop(self, id: str) -> None:
        await self._call(scripts.STOP, [], [check_id(id), encode(Finished(id, "stopped"))])

    async def place(self, id: str) -> int | None:
        place = await self._call(scripts.PLACE, [], [check_id(id), *CLASSES])
        return None if place < 0 else int(place)

    def events(self, id: str, after: str = "0-0") -> Tail:
        return self._reader.events(stream_key(id), after)

    async def history(self, id: str) -> list[tuple[str, Event]]:
        return (await self.histories([id]))[0]

    async def histories(self, ids: Sequence[str]) -> list[list[tuple[str, Event]]]:
        pipe = self._client.pipeline(transaction=False)
        for id in ids:
            pipe.xrange(stream_key(id))
        return [_history(id, raw) for id, raw in zip(ids, await _answer(pipe.execute()), strict=True)]

    async def exists(self, id: str) -> bool:
        return bool(await _answer(self._client.exists(stream_key(id), f"{stream_key(id)}:claim")))

    async def fail(self, id: str, failure: Failed) -> bool:
        return bool(await self._call(scripts.FAIL, [], [check_id(id), encode(failure)]))

    async def queue_length(self, base: str) -> int:
        return int(await self._call(scripts.WAITING, queue_keys(base), []))

    async def heartbeats(self, base: str) -> list[Heartbeat]:
        names: list[str] = sorted(await _answer(self._client.zrange(f"worker:{base}", 0, -1)))
        if not names:
            return []
        beats = await _answer(self._client.mget([heartbeat_key(base, name) for name in names]))
        # A worker of another version is of no use to this site: as good as not there.
        return [heartbeat for text in beats if text and (heartbeat := readable(text))]

    # the recorder

    async def finished(
        self, consumer: str, count: int, block_ms: int
    ) -> list[tuple[str, Generate | Probe | None, Terminal]]:
        entries = await _answer(self._finished.read(consumer, count, min(block_ms, LONGEST_BLOCK_MS)))
        return [_ended(*entry) for entry in entries]

    async def committed(self, entries: Mapping[str, str], ttl_seconds: int) -> None:
        pairs = [part for entry, id in entries.items() for part in (entry, stream_key(id))]
        await self._call(scripts.COMMIT, [FINISHED], [RECORDERS, ttl_seconds, *pairs])

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
        token = uuid.uuid4().hex
        args: list[str | int] = [worker, fingerprint, milliseconds(lease_seconds), token, SUSPECT_AFTER, ORPHAN_LEASES]
        args += [EVALUATION_PATIENCE, capacity.total, capacity.chat, capacity.newcomers]
        args += [self._weights, json.dumps(list(present)), ALONE_ATTEMPTS]
        args += [base, milliseconds(self.patience), milliseconds(had_room), capacity.idle]
        again, taken = await self._call(CLAIM, [f"generation:fingerprints:{base}", *queue_keys(base)], args)
        claims = [await self._open(entry, token, fingerprint, lease_seconds) for entry in taken]
        return Claims(filter(None, claims), None if again < 0 else again / 1000)

    async def _open(self, taken: list[Any], token: str, fingerprint: str, lease: float) -> Claim | None:
        """The claim on one request that the script took, or None after ending one that nobody can answer."""
        id, text, attempts, outcome, length, queue, is_stolen = taken
        request, streamed = readable(text), list[Event]()
        try:
            raw = await _answer(self._client.xrange(stream_key(id))) if length else []
            streamed = [event for _, event in read_entries(raw)]
        except ProtocolError:
            request = None
        queue_class: QueueClass = queue.rpartition(":")[2]
        resumed, is_alone = resume_of(streamed), outcome == "alone"
        claim = Claim(
            id, request, token, attempts, resumed, length, fingerprint, lease, queue_class, is_alone, bool(is_stolen)
        )
        if request and outcome in ("", "alone"):
            return claim
        end: Literal["stopped"] | FailureCode = "invalid_request" if outcome in ("", "alone") else outcome
        await self.finish(claim, terminal_of(id, end))
        return None

    async def renew(self, claims: Sequence[Claim]) -> list[Receipt]:
        args = [part for claim in claims for part in (claim.id, claim.token, milliseconds(claim.lease_seconds))]
        return [_receipt(answer) for answer in await self._call(scripts.RENEW, [], args)] if claims else []

    async def append(self, claim: Claim, events: Sequence[Event], after: int | None = None) -> Receipt:
        return (await self.append_all([Write(claim, tuple(events), after)]))[0]

    async def finish(self, claim: Claim, terminal: Terminal, after: int | None = None) -> Receipt:
        return await self.append(claim, [terminal], after)

    async def append_all(self, writes: Sequence[Write]) -> list[Receipt]:
        args = [part for write in writes for part in _append_args(write)]
        return [_receipt(answer) for answer in await self._call(scripts.APPEND, [], args)] if writes else []

    async def release(self, claim: Claim, crashed: bool = False) -> None:
        await self._call(scripts.RELEASE, [], [claim.id, claim.token, int(crashed)])

    def stops(self) -> AsyncIterator[str]:
        return messages(self._client, STOPS)

    async def arrivals(self, base: str) -> AsyncIterator[Arrival]:
        async with aclosing(messages(self._client, *queue_keys(base))) as told:
            async for message in told:
                id, *meant = message.split("\n")
                yield Arrival(id, tuple(meant))

    async def beat(self, heartbeat: Heartbeat, ttl_seconds: float) -> None:
        base, worker, ttl = heartbeat.base, heartbeat.worker, milliseconds(ttl_seconds)
        keys = [heartbeat_key(base, worker), f"worker:{base}", f"generation:fingerprints:{base}"]
        args: list[str | int] = [encode(heartbeat), worker, heartbeat.fingerprint, ttl, base, int(heartbeat.ready)]
        await self._call(scripts.BEAT, keys, [*args, *map(short, heartbeat.load.on_device)])

    async def depart(self, base: str, worker: str) -> None:
        await self._call(scripts.DEPART, [heartbeat_key(base, worker)], [base, worker])


def stream_key(id: str) -> str:
    return f"generation:{check_id(id)}"


def queue_key(base: str, queue_class: QueueClass) -> str:
    return f"generation:queue:{base}:{queue_class}"


def queue_keys(base: str) -> list[str]:
    return [queue_key(base, queue_class) for queue_class in CLASSES]


def heartbeat_key(base: str, worker: str) -> str:
    return f"worker:{base}:{worker}"


async def _answer(awaited: Awaitable[Any]) -> Any:
    """What Redis answers; any refusal or lost connection as a `WireError`."""
    try:
        return await awaited
    except (RedisError, OSError) as error:
        raise WireError(f"Redis does not serve the wire: {error}") from error


def _append_args(write: Write) -> list[str | int]:
    claim, terminal = write.claim, write.terminal
    events = write.events[:-1] if terminal else write.events
    return [
        claim.id,
        claim.token,
        -1 if write.after is None else write.after,
        claim.fingerprint if write.has_tokens else "",
        encode(terminal) if terminal else "",
        len(events),
        *map(encode, events),
    ]


def _history(id: str, raw: RawEntries) -> list[tuple[str, Event]]:
    try:
        return read_entries(raw)
    except ProtocolError as error:
        raise WireError(f"answer {id} was written by another version: {error}") from error


def _receipt(answer: Any) -> Receipt:
    """What a transaction says of the claim; an error in the place of a receipt as a `WireError`."""
    if isinstance(answer, Exception):
        raise WireError(f"Redis does not serve the wire: {answer}") from answer
    held, stopping, length = answer
    return Receipt(bool(held), bool(stopping), int(length))


def _ended(entry: str, fields: dict[str, str]) -> tuple[str, Generate | Probe | None, Terminal]:
    terminal = readable(fields["terminal"]) or terminal_of(fields["id"], "internal")
    return entry, readable(fields["request"]), terminal


def readable(text: str) -> Any:
    """The message, or None when there is none or another version of the wire wrote it."""
    try:
        return decode(text) if text else None
    except ProtocolError:
        return None
