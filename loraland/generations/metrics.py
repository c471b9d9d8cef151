"""What the site counts about answers: kept in Redis by the recorder, so that every web process tells the same."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from inference.wire.protocol import Terminal
from loraland import bases
from loraland.generations.models import Generation
from loraland.inference_client import redis

logger = logging.getLogger(__name__)

KEY: Final = "metrics:answers"
SUM: Final = "+"
"""Where answers of several adapters together are counted; no slug has this name."""
OTHER: Final = "other"
"""Under which name adapters with little traffic are told together; a slug of this name is told with them."""
BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds, in seconds, of the buckets of every time."""
ADD: Final = "for i = 1, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1]) end"


@dataclass(frozen=True)
class Count:
    """One number: the sum over all answers of `name` with this adapter and, for some, this label."""

    name: str
    adapter: str
    label: str
    value: float


async def count(recorded: Collection[tuple[Generation, Terminal]]) -> None:
    """Add recorded answers. Counting is worth less than recording: without Redis it is skipped and said so."""
    adds: defaultdict[str, float] = defaultdict(float)
    for generation, terminal in recorded:
        for field, amount in _adds(generation, terminal).items():
            adds[field] += amount
    try:
        if adds:
            await redis().eval(ADD, 1, KEY, *(part for field, amount in adds.items() for part in (field, amount)))
    except RedisError as error:
        logger.warning("%d answers are recorded but not counted: %s", len(recorded), error)


def _adds(generation: Generation, terminal: Terminal) -> dict[str, float]:
    """What one answer adds, by field."""
    version = generation.adapter_version
    adapter = version.adapter.slug if version else SUM if generation.components else ""
    adapter = adapter or bases.recorded(generation.base).called
    stats = terminal.stats
    adds = {
        f"answers|{adapter}|{generation.source}:{getattr(terminal, 'reason', 'error')}": 1.0,
        f"prompt_tokens|{adapter}|": float(stats.prompt_tokens),
        f"cached_tokens|{adapter}|": float(stats.cached_tokens),
        f"completion_tokens|{adapter}|": float(stats.completion_tokens),
    }
    adds |= _timed("queue", adapter, stats.queue_ms)
    if stats.first_token_ms:
        adds |= _timed("first_token", adapter, stats.first_token_ms)
    if stats.load_ms:
        adds |= _timed("load", adapter, stats.load_ms)
    return adds


def _timed(name: str, adapter: str, milliseconds: float) -> dict[str, float]:
    seconds = milliseconds / 1000
    bound = next((bound for bound in BOUNDS if seconds <= bound), "+Inf")
    return {f"{name}|{adapter}|{bound}": 1.0, f"{name}_sum|{adapter}|": seconds}


async def counts() -> list[Count]:
    """Every number so far. Raises `redis.RedisError`."""
    fields = await redis().hgetall(KEY)
    parts = ((str(field).split("|"), float(value)) for field, value in fields.items())
    return [Count(name, adapter, label, value) for (name, adapter, label), value in parts]


def busiest(counted: Iterable[Count], most: int) -> list[str]:
    """The adapters with the most answers, at most `most` of them."""
    answers: defaultdict[str, float] = defaultdict(float)
    for number in counted:
        if number.name == "answers":
            answers[number.adapter] += number.value
    return sorted(answers, key=lambda adapter: (-answers[adapter], adapter))[:most]


def folded(counted: Iterable[Count], shown: Collection[str]) -> list[Count]:
    """The same numbers, those of adapters that are not `shown` added up under `OTHER`."""
    sums: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for number in counted:
        sums[number.name, number.adapter if number.adapter in shown else OTHER, number.label] += number.value
    return [Count(*key, value) for key, value in sums.items()]
