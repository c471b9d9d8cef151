"""Trainings in Redis: the site submits, follows and cancels them, a training server claims them under a lease.

`training:queue` is a sorted set of ids by the moment from which they may be claimed: that of their submission, and
while somebody holds them that of their lease's end. `training:<id>` is the stream of a training's events, kept for
`TTL_SECONDS` after its end, `training:<id>:job` the job itself, `training:cancel:<id>` its owner's wish to end it.
Leases are those of `inference.wire.lease`. Every function raises redis's own errors while Redis is away.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final, Literal

from redis import Redis

from inference.server.protocol import (
    Train,
    TrainingCancelled,
    TrainingEnd,
    TrainingEvent,
    TrainingFailed,
    TrainingProgress,
    decode,
    encode,
)
from inference.wire.codec import ProtocolError
from inference.wire.lease import LEASE, check_id, milliseconds
from inference.wire.redis_reader import read_streams

SERVERS: Final = "training:servers"
QUEUE: Final = "training:queue"
TTL_SECONDS: Final = 7 * 24 * 3600

Held = Literal["held", "cancelled", "hurried", "lost"]


@dataclass(frozen=True)
class TrainingClaim:
    """A job that one server owns until its lease ends. Every write shows `token`, which no other claim has.

    `attempts` counts the claims since the training last came further than ever before, this one included, and
    those not that were given back in peace. `step` is the furthest step so far. `is_urgent` is what its owner wants:
    that it computes beside the others, and not only when nobody else would.
    """

    train: Train
    token: str
    attempts: int
    step: int
    is_urgent: bool = False


# the site


def submit(redis: Redis, train: Train) -> None:
    """Queue a training. The same id again changes nothing. Raises ValueError for an id that cannot be a key."""
    _call(redis, _SUBMIT, check_id(train.id, "training"), encode(train))


def events(redis: Redis, id: str, after: str = "0-0", block_ms: int | None = None) -> list[tuple[str, TrainingEvent]]:
    """What has happened behind the cursor `after`, as (cursor, event), oldest first.

    Waits up to `block_ms` for something to happen when nothing has; it must be shorter than the client's timeout.
    """
    answer = redis.xread({stream_key(id): after}, count=1000, block=block_ms)
    entries: list[Any] = [entry for _, raw in read_streams(answer) for entry in raw]
    return [(_text(cursor), decode(next(iter(fields.values())))) for cursor, fields in entries]


def cancel(redis: Redis, id: str) -> None:
    """End a training: at once when nobody works on it, else within a step. No effect after its end.

    Files in its folder stay where they are.
    """
    step = int(_any(redis.hget(_job_key(id), "step")) or 0)
    _call(redis, _CANCEL, id, encode(TrainingCancelled(step)))


def hurry(redis: Redis, id: str) -> None:
    """Let a training compute beside the others from its next moment on. No effect before it is queued or after it."""
    _call(redis, _HURRY, id)


def share(redis: Redis, id: str) -> float | None:
    """The share of a processor that a training at work has got of late; None where nobody can tell."""
    found = _any(redis.hget(_job_key(id), "share"))
    return float(found) if found else None


def is_known(redis: Redis, id: str) -> bool:
    """Whether this training waits, is under way, or has ended not long ago."""
    return bool(redis.exists(stream_key(id), _job_key(id)))


def servers(redis: Redis) -> list[str]:
    """The names of the training servers that are alive."""
    now = _any(redis.time())[0]
    return [_text(name) for name in _any(redis.zrangebyscore(SERVERS, now, "+inf"))]


# the training server


def counts(redis: Redis) -> tuple[int, int]:
    """How many trainings nobody works on just now, and on how many somebody does."""
    seconds, micros = _any(redis.time())
    now = int(seconds) * 1000 + int(micros) // 1000
    free = int(_any(redis.zcount(QUEUE, "-inf", now)))
    return free, int(_any(redis.zcard(QUEUE))) - free


def claim(redis: Redis, lease_seconds: float) -> TrainingClaim | None:
    """Own the training that waits longest, None when none does, or none that can be read: that one ends."""
    token = uuid.uuid4().hex
    taken = _call(redis, _CLAIM, token, milliseconds(lease_seconds))
    if not taken:
        return None
    try:
        return TrainingClaim(decode(taken[1]), token, int(taken[2]), int(taken[3]), bool(int(taken[4])))
    except ProtocolError:
        end = TrainingFailed("It was queued by another version of LoRA Land; train again.")
        _call(redis, _FINISH, _text(taken[0]), token, encode(end))
        return None


def renew(redis: Redis, claim: TrainingClaim, lease_seconds: float) -> Held:
    """Begin the lease anew, and learn whether the owner wants to end or to hurry it, or another server has it."""
    answers: tuple[Held, ...] = ("lost", "held", "cancelled", "hurried")
    return answers[int(_call(redis, _RENEW, claim.train.id, claim.token, milliseconds(lease_seconds)))]


def append(redis: Redis, claim: TrainingClaim, progress: TrainingProgress) -> bool:
    """Write a step; false, and nothing written, when the claim is lost."""
    return bool(_call(redis, _APPEND, claim.train.id, claim.token, encode(progress), progress.step))


def record_share(redis: Redis, claim: TrainingClaim, share: float) -> None:
    """Write which share of a processor the training gets; nothing is written when the claim is lost."""
    _call(redis, _SHARE, claim.train.id, claim.token, f"{share:.3f}")


def finish(redis: Redis, claim: TrainingClaim, end: TrainingEnd) -> bool:
    """Write the last event and forget the job, in one transaction; false when the claim is lost."""
    return bool(_call(redis, _FINISH, claim.train.id, claim.token, encode(end)))


def release(redis: Redis, claim: TrainingClaim, crashed: bool) -> None:
    """Give the job back, to be claimed at once; it counts as an attempt only if `crashed`."""
    _call(redis, _RELEASE, claim.train.id, claim.token, int(crashed))


def beat(redis: Redis, server: str, ttl_seconds: float) -> None:
    """Show that a server lives; forgotten after `ttl_seconds`."""
    now = _any(redis.time())[0]
    redis.zremrangebyscore(SERVERS, "-inf", f"({now}")
    redis.zadd(SERVERS, {server: now + ttl_seconds})


def depart(redis: Redis, server: str) -> None:
    """Take a server's sign of life away at once."""
    redis.zrem(SERVERS, server)


def stream_key(id: str) -> str:
    return f"training:{check_id(id, 'training')}"


def _job_key(id: str) -> str:
    return f"{stream_key(id)}:job"


def _call(redis: Redis, script: str, *arguments: str | int) -> Any:
    return redis.register_script(_PRELUDE + script)(args=list(arguments))


def _any(answer: Any) -> Any:
    """An answer of Redis as it is: the client's types allow for an asynchronous one."""
    return answer


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


_PRELUDE: Final = (
    f"local TTL = {TTL_SECONDS}"
    + LEASE
    + """
local QUEUE = 'training:queue'
local function stream(id) return 'training:' .. id end
local function job(id) return 'training:' .. id .. ':job' end
local function flag(id) return 'training:cancel:' .. id end
local function finish(id, event)
  redis.call('XADD', stream(id), '*', 'event', event)
  redis.call('EXPIRE', stream(id), TTL)
  redis.call('ZREM', QUEUE, id)
  redis.call('DEL', job(id), flag(id))
end
"""
)

_SUBMIT: Final = """
local id, train = ARGV[1], ARGV[2]
if redis.call('EXISTS', job(id), stream(id)) > 0 then return 0 end
redis.call('HSET', job(id), 'train', train, 'submitted', now(), 'attempts', 0, 'step', 0)
return redis.call('ZADD', QUEUE, now(), id)
"""

_CANCEL: Final = """
local id, event = ARGV[1], ARGV[2]
local moment = redis.call('ZSCORE', QUEUE, id)
if not moment then return 0 end
if tonumber(moment) <= now() then finish(id, event) return 1 end
redis.call('SET', flag(id), 1)
return 0
"""

_CLAIM: Final = """
local token, lease = ARGV[1], tonumber(ARGV[2])
local id = redis.call('ZRANGEBYSCORE', QUEUE, '-inf', now(), 'LIMIT', 0, 1)[1]
if not id then return false end
begin_lease(QUEUE, id, lease)
redis.call('HSET', job(id), 'token', token)
local attempts = redis.call('HINCRBY', job(id), 'attempts', 1)
redis.call('HDEL', job(id), 'share')
local urgent = redis.call('HEXISTS', job(id), 'urgent')
return {id, redis.call('HGET', job(id), 'train'), attempts, redis.call('HGET', job(id), 'step'), urgent}
"""

_RENEW: Final = """
local id, token, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not is_owner(job(id), token) then return 0 end
begin_lease(QUEUE, id, lease)
if redis.call('EXISTS', flag(id)) == 1 then return 2 end
return 1 + 2 * redis.call('HEXISTS', job(id), 'urgent')
"""

_HURRY: Final = """
local id = ARGV[1]
if redis.call('EXISTS', job(id)) == 0 then return 0 end
return redis.call('HSET', job(id), 'urgent', 1)
"""

_SHARE: Final = """
local id, token, share = ARGV[1], ARGV[2], ARGV[3]
if not is_owner(job(id), token) then return 0 end
return redis.call('HSET', job(id), 'share', share)
"""

_APPEND: Final = """
local id, token, event, step = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not is_owner(job(id), token) then return 0 end
redis.call('XADD', stream(id), '*', 'event', event)
if step > tonumber(redis.call('HGET', job(id), 'step')) then
  redis.call('HSET', job(id), 'step', step, 'attempts', 1)
end
return 1
"""

_FINISH: Final = """
local id, token, event = ARGV[1], ARGV[2], ARGV[3]
if not is_owner(job(id), token) then return 0 end
finish(id, event)
return 1
"""

_RELEASE: Final = """
local id, token, crashed = ARGV[1], ARGV[2], ARGV[3]
if not is_owner(job(id), token) then return 0 end
if crashed == '0' then redis.call('HINCRBY', job(id), 'attempts', -1) end
redis.call('HDEL', job(id), 'token')
return redis.call('ZADD', QUEUE, redis.call('HGET', job(id), 'submitted'), id)
"""
