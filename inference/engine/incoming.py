"""Requests whose adapters are not on this host yet: they wait here until these were fetched from the store.

An adapter's config says how its prompts are read, so such a request is not put into tokens before. Fetching has threads
of its own: what comes over a network keeps neither the device nor those waiting whose adapters lie on the disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from inference.adapters.stored import AdapterNotFound
from inference.engine.loading import Loaded
from inference.objects.failures import StoreAway
from inference.wire.capacity import Capacity
from inference.wire.contract import Resume
from inference.wire.protocol import QueueClass, Request

FETCHERS: Final = 4
"""Adapters that are fetched at once."""
MOST_WAITING: Final = 64
"""Requests that may wait for a fetch before they take away all capacity that there is."""
AWAY_SECONDS: Final = 5.0
"""How long a store that did not answer is not asked again: whoever waits for it would wait for its time-out."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrival:
    """A request as it came in, and why its adapter could not be fetched, if it could not."""

    request: Request
    resume: Resume | None
    queue_class: QueueClass
    failure: Loaded | None = None


class Incoming:
    """Holds requests until all that they name is here: `is_here` says so of a digest, and `fetch` brings it."""

    def __init__(
        self, is_here: Callable[[str], bool] = lambda digest: True, fetch: Callable[[str], None] = lambda digest: None
    ) -> None:
        self._is_here, self._fetch = is_here, fetch
        self._executor = ThreadPoolExecutor(FETCHERS, thread_name_prefix="adapter-fetcher")
        self._waiting: dict[str, tuple[Arrival, frozenset[str]]] = {}
        self._fetches: dict[str, Future[Loaded]] = {}
        self._away: tuple[float, StoreAway] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def arrivals(self) -> list[Arrival]:
        """The requests that wait here."""
        return [arrival for arrival, _ in self._waiting.values()]

    def leaves(self, free: Capacity) -> Capacity:
        """What is left of `free` beside those that wait here.

        They take at most half of it, so that a store that hangs does not stop those whose adapters lie on the disk;
        from `MOST_WAITING` on they count as any do, for nobody hoards what other workers could answer.
        """
        num = len(self._waiting)
        return free.less(num if num >= MOST_WAITING else min(num, free.total // 2))

    def hold(self, request: Request, resume: Resume | None, queue_class: QueueClass) -> bool:
        """Whether the request waits here now, until `poll` gives it."""
        missing = frozenset(digest for digest in _named(request) if not self._is_here(digest))
        for digest in missing - self._fetches.keys():
            self._fetches[digest] = self._executor.submit(self._bring, digest)
        if missing:
            self._waiting[request.id] = Arrival(request, resume, queue_class), missing
        return bool(missing)

    def take(self, id: str) -> Arrival | None:
        """The request `id`, if it waits here, which it does no more. What is fetched for it comes all the same."""
        found = self._waiting.pop(id, None)
        return found and found[0]

    def poll(self, timeout: float = 0.0) -> list[Arrival]:
        """The requests whose fetches have ended, waiting up to `timeout` seconds for one."""
        if timeout and self._fetches:
            wait(self._fetches.values(), timeout, return_when="FIRST_COMPLETED")
        ended = {digest: fetch.result() for digest, fetch in self._fetches.items() if fetch.done()}
        for digest in ended:
            del self._fetches[digest]
        return [arrival for id in list(self._waiting) if (arrival := self._settled(id, ended))]

    def close(self) -> None:
        """Begin no further fetch. One under way ends with the process, and goes on from there another time."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _settled(self, id: str, ended: dict[str, Loaded]) -> Arrival | None:
        """The request `id` if nothing of it is still to come, or something of it never will."""
        arrival, missing = self._waiting[id]
        failures = [ended[digest] for digest in missing if digest in ended and ended[digest].error]
        left = missing - ended.keys()
        self._waiting[id] = arrival, left
        if left and not failures:
            return None
        del self._waiting[id]
        failure = failures[0] if failures else None
        return Arrival(arrival.request, arrival.resume, arrival.queue_class, failure)

    def _bring(self, digest: str) -> Loaded:
        start = time.monotonic()
        if self._away and start - self._away[0] < AWAY_SECONDS:
            return Loaded(digest, 0.0, self._away[1])
        try:
            self._fetch(digest)
        except (AdapterNotFound, OSError) as error:
            if isinstance(error, StoreAway):
                self._away = time.monotonic(), error
            log.warning("not fetched adapter=%s error=%s", digest[:12], error)
            return Loaded(digest, time.monotonic() - start, error)
        seconds = time.monotonic() - start
        log.info("fetched adapter=%s seconds=%.3f", digest[:12], seconds)
        return Loaded(digest, seconds)


def _named(request: Request) -> set[str]:
    """The digests of all that has to be loaded for `request`: an adapter, or its parts and a gate."""
    adapter = request.adapter
    if adapter is None:
        return set()
    parts = {component.digest for component in adapter.components} or {adapter.digest}
    return parts | ({adapter.gate.digest} if adapter.gate and adapter.gate.digest else set())
