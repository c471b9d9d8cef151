"""What to do next so that a pool becomes as it is to be: a pure function of the replicas that there are.

Replicas that die are started again by Ray, under the same name; here only their number and their revision count. A
pool takes on a new revision one by one: a replica of it is started, and once it is ready one of the old is drained.
Where the cluster has no place for one more than the pool is to have, an old one goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from inference.wire.cluster import ReplicaState

PLACE_SECONDS: Final = 15.0
"""How long a replica of a new revision waits for a place beside the old ones."""
LAST_PLACE_SECONDS: Final = 120.0
"""How long beside an old one that alone serves: a node may be on its way, or an image."""


@dataclass(frozen=True)
class Replica:
    """The `number`-th replica of a base, in `state` since `seconds`, with so many answers `running`."""

    number: int
    revision: str
    state: ReplicaState
    seconds: float = 0.0
    running: int = 0


@dataclass(frozen=True)
class Step:
    """Start the replica of this number, in the revision that is wanted; drain it; or put away one that has ended, or
    that was never placed."""

    do: Literal["start", "drain", "remove"]
    number: int


def steps(replicas: Sequence[Replica], wanted: int, revision: str) -> list[Step]:
    """The steps of this moment; each later look finds what they came to."""
    ended = [Step("remove", each.number) for each in replicas if each.state == "ended"]
    living = [each for each in replicas if each.state not in ("ended", "draining")]
    taken = {each.number for each in replicas}
    if (missing := wanted - len(living)) > 0:
        return [*ended, *(Step("start", number) for number in _free(taken, missing))]
    if old := [each for each in living if each.revision != revision]:
        return [*ended, *_upgraded(living, old, taken, wanted)]
    return [*ended, *(_left(each) for each in _least(living, len(living) - wanted))]


def _free(taken: set[int], count: int) -> list[int]:
    free = (number for number in range(1, len(taken) + count + 1) if number not in taken)
    return [next(free) for _ in range(count)]


def _upgraded(living: Sequence[Replica], old: Sequence[Replica], taken: set[int], wanted: int) -> list[Step]:
    """One step of a new revision at a time. An old one that does not serve is of no use to anybody."""
    if idle := [each for each in old if each.state == "loading" or _has_no_place(each, PLACE_SECONDS)]:
        return [_left(idle[0])]
    new = [each for each in living if each not in old and each.state != "ready"]
    if any(each.state == "loading" for each in new):
        return []
    is_last = sum(each.state == "ready" for each in living) == 1
    patience = LAST_PLACE_SECONDS if is_last else PLACE_SECONDS
    if len(living) > wanted and (not new or any(_has_no_place(each, patience) for each in new)):
        return [_left(_least(old, 1)[0])]
    return [] if new else [Step("start", _free(taken, 1)[0])]


def _has_no_place(replica: Replica, patience: float) -> bool:
    return replica.state == "waiting" and replica.seconds >= patience


def _least(replicas: Sequence[Replica], count: int) -> list[Replica]:
    """Those that can be missed best: first who does not serve yet, then who has least to do."""
    order = {"waiting": 0, "loading": 1}
    return sorted(replicas, key=lambda each: (order.get(each.state, 2), each.running, -each.number))[:count]


def _left(replica: Replica) -> Step:
    """One without a place has nothing to finish."""
    return Step("remove" if replica.state == "waiting" else "drain", replica.number)
