"""How many replicas a base is to have, and the sentence that says why: a pure function of what is measured.

A pool grows by one when the oldest request has waited too long in several looks in a row, sooner where one adapter has
most of those that wait (its heat is then more than the workers that hold it can take), or when adapters change places
on the devices faster than they serve. It shrinks by one when for a while nobody waited and one replica less would do.
After each change, and while a replica loads, it rests, so that the effect of one is seen before the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from inference.wire.waiting import Waiting

LOOKS: Final = 3
"""In so many looks in a row a request must have waited too long."""
REST_SECONDS: Final = 10.0
HOT_SHARE: Final = 0.5
HOT_REQUESTS: Final = 4
"""With fewer that wait, no adapter among them is hot."""
SPARE: Final = 0.5
"""How much of the rows that would be left may be in use when a pool shrinks: it is not to grow again at once."""
RELOADS_A_SLOT: Final = 1.0
"""Adapters that come back to the device, in a minute and for each of its slots, past which it is too small."""


@dataclass(frozen=True)
class Bounds:
    """`low` replicas at least and `high` at most; a request may wait `up_seconds`, and a pool is idle for
    `down_seconds` before it shrinks."""

    low: int
    high: int
    up_seconds: float = 2.0
    down_seconds: float = 300.0


@dataclass(frozen=True)
class Measures:
    """Of all ready replicas of a base together: answers that are `running` and the `rows` for them, adapters that came
    back to a device in the last minute, and the `slots` for them."""

    waiting: Waiting = field(default_factory=Waiting)
    ready: int = 0
    starting: int = 0
    running: int = 0
    rows: int = 0
    reloads: float = 0.0
    slots: int = 0


@dataclass(frozen=True)
class Trend:
    """What earlier looks have found: how many in a row were too slow, since when it is calm, when it last changed."""

    slow_looks: int = 0
    calm_since: float | None = None
    changed: float = float("-inf")


@dataclass(frozen=True)
class Decision:
    """The number of replicas that there are to be; `reason` is empty where it stays as it was."""

    wanted: int
    reason: str = ""


def decide(wanted: int, bounds: Bounds, trend: Trend, measures: Measures, now: float) -> tuple[Decision, Trend]:
    """Go on from `wanted` at the moment `now`, in seconds of any clock; the decision and what to remember."""
    trend = _followed(trend, bounds, measures, wanted, now)
    if not bounds.low <= wanted <= bounds.high:
        kept = min(max(wanted, bounds.low), bounds.high)
        reason = f"the bounds are {bounds.low} to {bounds.high} replicas"
        return Decision(kept, reason), Trend(changed=now)
    if now - trend.changed < min(REST_SECONDS, bounds.down_seconds) or measures.starting:
        return Decision(wanted), trend
    if wanted < bounds.high and (reason := _too_small(bounds, trend, measures)):
        return Decision(wanted + 1, reason), Trend(changed=now)
    if wanted > bounds.low and trend.calm_since is not None and now - trend.calm_since >= bounds.down_seconds:
        return Decision(wanted - 1, _too_large(bounds, measures, wanted)), Trend(changed=now)
    return Decision(wanted), trend


def _followed(trend: Trend, bounds: Bounds, measures: Measures, wanted: int, now: float) -> Trend:
    is_slow = measures.waiting.oldest_seconds > _patience(bounds, measures.waiting)
    is_calm = not measures.waiting.number and measures.running <= _spared(measures, wanted)
    calm_since = (now if trend.calm_since is None else trend.calm_since) if is_calm else None
    return replace(trend, slow_looks=trend.slow_looks + 1 if is_slow else 0, calm_since=calm_since)


def _patience(bounds: Bounds, waiting: Waiting) -> float:
    """Half of it where one adapter's heat keeps the others waiting."""
    return bounds.up_seconds / 2 if _is_hot(waiting) else bounds.up_seconds


def _is_hot(waiting: Waiting) -> bool:
    has_many = waiting.hottest_number >= HOT_REQUESTS
    return bool(waiting.hottest) and has_many and waiting.hottest_number > HOT_SHARE * waiting.sampled


def _spared(measures: Measures, wanted: int) -> float:
    """How many answers one replica less would have running with ease."""
    return SPARE * measures.rows * (wanted - 1) / max(1, measures.ready)


def _too_small(bounds: Bounds, trend: Trend, measures: Measures) -> str:
    waiting = measures.waiting
    if trend.slow_looks >= LOOKS:
        told = f"the oldest of {waiting.number} requests had waited for {waiting.oldest_seconds:.1f} s"
        if _is_hot(waiting):
            share = f"{waiting.hottest_number} of {waiting.sampled}"
            return f"{told}, and {share} ask for the adapter {waiting.hottest[:12]}"
        return f"{told}, longer than the {bounds.up_seconds:g} s of SCALE_UP_SECONDS"
    if measures.slots and measures.reloads > RELOADS_A_SLOT * measures.slots:
        return (
            f"{measures.reloads:.0f} adapters came back to the device within a minute, more than its "
            f"{measures.slots} slots hold in peace"
        )
    return ""


def _too_large(bounds: Bounds, measures: Measures, wanted: int) -> str:
    if not measures.running:
        return f"nobody has waited for {bounds.down_seconds:g} s, and nothing runs"
    told = f"{measures.running} answers" if measures.running != 1 else "one answer"
    return (
        f"nobody has waited for {bounds.down_seconds:g} s, and {wanted - 1} of {wanted} replicas have room for the "
        f"{told} that ran"
    )
