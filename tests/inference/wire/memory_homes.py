"""Which workers a request is meant for, in memory: the twin of `inference.wire.homes` in Redis."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable

from inference.wire.affinity import Affinity, affinity_of, short
from inference.wire.contract import SECOND_SHARE
from inference.wire.homes import FEW_CLAIMS, HOLDS_MS, LONGEST_TURN, SPARE_ROWS, WINDOW_MS
from inference.wire.protocol import Heartbeat, Request

WINDOW = WINDOW_MS / 1000
HOLDS = HOLDS_MS / 1000
UNKNOWN = 1_000_000
"""The idle rows of a worker that has not told of them."""


class MemoryHomes:
    """The live workers of one base, and what each holds. A home is waited for `patience` seconds of `clock`."""

    def __init__(self, clock: Callable[[], float], patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._live: dict[str, float] = {}
        self._holds: dict[str, dict[str, float]] = defaultdict(dict)
        self._claimed: dict[str, dict[str, float]] = defaultdict(dict)
        self._heat: dict[int, Counter[str]] = defaultdict(Counter)
        self._conversations: dict[str, str] = {}
        self._rooms: dict[str, float] = {}
        self._gaps: dict[str, float] = defaultdict(float)
        self._lasts: dict[str, float] = {}

    def beat(self, heartbeat: Heartbeat, ttl: float) -> None:
        if not heartbeat.ready:
            self._live.pop(heartbeat.worker, None)
            return
        self._live[heartbeat.worker] = self._clock() + ttl
        for digest in map(short, heartbeat.load.on_device if len(self.names) > 1 else ()):
            self._holds[heartbeat.worker][digest] = self._clock() + HOLDS
            self._claimed[digest].setdefault(heartbeat.worker, 0.0)

    def depart(self, worker: str) -> None:
        self._live.pop(worker, None)
        self._holds.pop(worker, None)
        for told in (self._rooms, self._gaps, self._lasts):
            told.pop(worker, None)

    @property
    def names(self) -> list[str]:
        """The workers that may be homes."""
        return [name for name, expiry in self._live.items() if expiry > self._clock()]

    def is_routed(self, worker: str) -> bool:
        """Whether `worker` is not the only one."""
        return bool(set(self.names) - {worker})

    def of(self, request: Request) -> tuple[list[str], list[str]]:
        """The homes of `request`, and who holds what it wants; no homes where anybody will do."""
        affinity = affinity_of(request)
        last = self._conversations.get(affinity.continues, "")
        if affinity.continues and last in self.names:
            return [last], []
        if not affinity.digests:
            return [], []
        found = ((digest, self._holders(digest)) for digest in affinity.digests)
        digest, holders = next((pair for pair in found if pair[1]), (affinity.digests[0], []))
        others = sorted(set(self.names) - set(holders), key=lambda name: _hash(name, digest), reverse=True)
        return (holders + others)[: self._num_homes(digest)], holders

    def set_room(self, worker: str, room: float) -> None:
        """`worker` has room for so many more requests."""
        self._rooms[worker] = room

    def meant(self, request: Request) -> list[str]:
        """For whom `request` is, first for whom above all."""
        homes, holders = self.of(request)
        relief = self.relief(homes, holders)
        by_room = sorted(homes, key=lambda name: (-self._rooms.get(name, UNKNOWN), name))
        return [relief, *by_room] if relief else by_room

    def count_claims(self, worker: str, number: int) -> None:
        """`worker` has claimed so many now, each a gap after the one before."""
        if worker in self._lasts:
            gap = min(WINDOW, (self._clock() - self._lasts[worker]) / number)
            self._gaps[worker] += (gap - self._gaps[worker]) / 4
        self._lasts[worker] = self._clock()

    def forget_dead(self, worker: str) -> None:
        """What those told of themselves that have died, `worker` aside, once it is more than as many as live."""
        if self.is_routed(worker) and len(self._rooms) > len(self.names):
            for name in set(self._rooms) - {*self.names, worker}:
                for told in (self._rooms, self._gaps, self._lasts):
                    told.pop(name, None)

    def is_meant(self, request: Request, worker: str) -> bool:
        """Whether `worker` need not wait for it."""
        homes, holders = self.of(request)
        return not homes or worker in (*homes, self.relief(homes, holders))

    def rest(self, request: Request, worker: str, since: float, left: float | None) -> float:
        """Seconds until `worker` may have what is meant for others: it has had room for it since `since`, and `left`
        is when it was first passed over at the head of a line."""
        homes, holders = self.of(request)
        share = SECOND_SHARE if worker in holders else 1.0
        rest = since + share * self._patience
        if left is not None:
            rest = min(rest, left + share * self._turn([*homes, self.relief(homes, holders)]))
        return rest - self._clock()

    def _turn(self, homes: list[str]) -> float:
        """For how long the head of a line is left for `homes`."""
        gap = min(self._gaps[name] for name in homes if name)
        return max(self._patience, min(LONGEST_TURN * self._patience, 4 * gap))

    def settle(self, worker: str, request: Request) -> None:
        """`worker` has claimed `request`."""
        self._rooms[worker] = self._rooms.get(worker, 0) - 1
        affinity = affinity_of(request)
        for digest in affinity.digests[:1]:
            self._holds[worker][digest] = self._clock() + HOLDS
            self._claimed[digest][worker] = self._clock()
            self._heat[int(self._clock() // WINDOW)].update((digest, ""))
        self._note_conversation(worker, affinity)

    def _note_conversation(self, worker: str, affinity: Affinity) -> None:
        if affinity.conversation:
            self._conversations[affinity.conversation] = worker

    def relief(self, homes: list[str], holders: list[str]) -> str:
        """Who relieves `homes`, where these are crowded; one that holds it if there is such."""
        best = max((self._rooms.get(name, UNKNOWN) for name in homes), default=0)
        rooms = {name: self._rooms.get(name, 0) for name in sorted(self.names)} if homes else {}
        free = [name for name, room in rooms.items() if room > max(0, 2 * best + SPARE_ROWS * (name not in holders))]
        return max(free, key=lambda name: (name in holders, rooms[name]), default="")

    def _holders(self, digest: str) -> list[str]:
        claimed = self._claimed[digest]
        for name in set(claimed) - set(self.names):
            del claimed[name]
        held = [name for name in self.names if self._holds[name].get(digest, 0.0) > self._clock()]
        return sorted((name for name in held if name in claimed), key=lambda name: (claimed[name], name), reverse=True)

    def _num_homes(self, digest: str) -> int:
        number = len(self.names)
        share = self._claims(digest) / max(self._claims(""), FEW_CLAIMS * number)
        return min(number, 1 + int(share * number))

    def _claims(self, digest: str) -> float:
        window, into = divmod(self._clock(), WINDOW)
        return self._heat[int(window)][digest] + (1 - into / WINDOW) * self._heat[int(window) - 1][digest]


def _hash(name: str, digest: str) -> str:
    return hashlib.sha1(f"{name} {digest}".encode(), usedforsecurity=False).hexdigest()
