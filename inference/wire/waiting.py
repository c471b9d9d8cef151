"""Who waits before the workers of a base just now: how many, for how long, and for which adapter most of them.

It reads the lines of `inference.wire.lines` and changes nothing. What sizes a pool of workers looks here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from inference.wire.lines import UNCLAIMED
from inference.wire.protocol import CLASSES, Request
from inference.wire.redis_wire import queue_key, readable, stream_key

SAMPLE: Final = 64
"""At so many of a class, those that have waited longest, it is looked for what they ask."""


@dataclass(frozen=True)
class Waiting:
    """`number` requests have no worker, because none claimed them yet or theirs handed them over or died. The one that
    has had none for longest has waited `oldest_seconds` by the site's clock; of those looked at `hottest_number` of
    `sampled` ask for the adapter with the digest `hottest`.
    """

    number: int = 0
    oldest_seconds: float = 0.0
    sampled: int = 0
    hottest: str = ""
    hottest_number: int = 0


async def waiting(redis: Redis, base: str) -> Waiting:
    """Look at all classes of `base`. Raises redis's own errors; its client must decode responses."""
    seconds, micros = await redis.time()
    now = seconds + micros / 1e6
    pipe = redis.pipeline(transaction=False)
    for name in CLASSES:
        line = f"{queue_key(base, name)}:line"
        pipe.zcount(line, f"({UNCLAIMED}", "+inf")
        pipe.zrangebyscore(line, f"({UNCLAIMED}", "+inf", start=0, num=SAMPLE)
        pipe.zrangebyscore(line, "-inf", int(1000 * now), withscores=True)
    looks = await pipe.execute()
    handed = [entry for found in looks[2::3] for entry in found]
    ids = [id for found in looks[1::3] for id in found]
    texts = await _texts(redis, ids) if ids else []
    # What is no longer there, or was written by another version, says nothing.
    requests = [request for text in texts if text and (request := readable(text))]
    since = [request.created for request in requests if request.created] + [ended / 1000 for _, ended in handed]
    return _summed(sum(looks[::3]) + len(handed), now - min(since, default=now), requests)


async def _texts(redis: Redis, ids: Sequence[str]) -> list[str | None]:
    pipe = redis.pipeline(transaction=False)
    for id in ids:
        pipe.hget(f"{stream_key(id)}:claim", "request")
    return await pipe.execute()


def _summed(number: int, oldest_seconds: float, requests: Sequence[Request]) -> Waiting:
    asked = Counter(request.adapter.digest if request.adapter else "" for request in requests)
    hottest, hottest_number = max(asked.items(), key=lambda item: item[1], default=("", 0))
    return Waiting(number, max(0.0, oldest_seconds), len(requests), hottest, hottest_number)
