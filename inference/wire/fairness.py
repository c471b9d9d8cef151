"""Who has been served least: virtual token counters, for tenants and for the adapters of each.

The method is the Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models"
(arXiv 2401.00588). Service is counted in tokens, those generated at `OUTPUT_COST`; whoever waits with the lowest
counter is next. A tenant that begins to wait is lifted to the lowest of those who wait, so that nobody saves up
turns by staying away; and by `ENTRY_COST` more, which the method does not know, so that a stream of newcomers does
not hold up those who came before them for ever. Two tenants of equal weight that always wait never differ in service
by more than 2 · max(longest prompt, `OUTPUT_COST` · tokens of a full batch) + `ENTRY_COST`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

INPUT_COST: Final = 1.0
OUTPUT_COST: Final = 2.0
ENTRY_COST: Final = 8.0
"""What a token costs: one of a prompt is read beside many others, each generated one takes a pass."""


def of_party(values: Mapping[str, float], party: str, default: float) -> float:
    """The party's own value, or that of its kind, the part before the colon, or `default`."""
    return values.get(party, values.get(party.partition(":")[0], default))


class VirtualCounters:
    """The service that each party has had, divided by its weight. Pure bookkeeping; parties are any names.

    Only those who wait, or have had more than `floor`, are remembered: all others would be lifted to it anyway.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights or {}
        self._served: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._last = ""
        self.floor = 0.0

    def __getitem__(self, party: str) -> float:
        return self._served.get(party, self.floor)

    def __len__(self) -> int:
        """How many parties are remembered."""
        return len(self._served)

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many requests of each party wait; those with none are left out."""
        return self._waiting

    def weight(self, party: str) -> float:
        """The party's own weight, or that of its kind, or 1."""
        return of_party(self._weights, party, 1.0)

    def charge(self, party: str, service: float) -> None:
        """Count `service`, in cost of tokens; a negative one takes back what was charged too much."""
        self._served[party] = self[party] + service / self.weight(party)

    def enter(self, party: str, again: bool = False) -> None:
        """One more request of `party` waits; the first lifts its counter, unless it waits `again` after having run."""
        if party not in self._waiting:
            if not again:
                self._lift()
            self._served[party] = self[party] if again else max(self[party], self.floor + ENTRY_COST)
        self._waiting[party] += 1

    def leave(self, party: str) -> None:
        """A request of `party` waits no longer, for whatever reason."""
        self._waiting[party] -= 1
        assert self._waiting[party] >= 0, f"{party!r} left more often than it entered"
        if not self._waiting[party]:
            del self._waiting[party]
            self._last = party

    def _lift(self) -> None:
        """Raise the floor: to the lowest who waits, and when nobody does, to the one who waited last."""
        self.floor = max(self.floor, min((self[party] for party in self._waiting), default=self[self._last]))
        self._served = {
            party: served for party, served in self._served.items() if served > self.floor or party in self._waiting
        }


class Fairness:
    """Counters of tenants, and within each tenant of its adapters; `weights` are those of tenants or their kinds."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.tenants = VirtualCounters(weights)
        self._adapters: dict[str, VirtualCounters] = {}

    def enter(self, tenant: str, digest: str, again: bool = False) -> None:
        """One more request waits, or waits `again` after having run."""
        self.tenants.enter(tenant, again)
        self._adapters.setdefault(tenant, VirtualCounters()).enter(digest, again)

    def leave(self, tenant: str, digest: str) -> None:
        """A request waits no longer. Of a tenant that waits for nothing only its own counter is kept."""
        self.tenants.leave(tenant)
        self._adapters[tenant].leave(digest)
        if tenant not in self.tenants.waiting:
            del self._adapters[tenant]

    def charge(self, tenant: str, digest: str, inputs: int, outputs: int) -> None:
        """Count tokens read and tokens generated."""
        service = INPUT_COST * inputs + OUTPUT_COST * outputs
        self.tenants.charge(tenant, service)
        if tenant in self._adapters:
            self._adapters[tenant].charge(digest, service)

    def served(self, tenant: str, digest: str) -> tuple[float, float]:
        """The counters by which requests are ordered: the tenant's, then the adapter's within it."""
        adapters = self._adapters.get(tenant)
        return self.tenants[tenant], adapters[digest] if adapters else 0.0
