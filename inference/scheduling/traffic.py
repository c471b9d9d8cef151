"""How often adapters and requests have changed places on a worker, for its heartbeat."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

MOST_LOADED: Final = 64


@dataclass(frozen=True)
class TrafficReport:
    """The fields of a heartbeat of these names."""

    loads: int
    reloads: int
    adapter_loads: tuple[tuple[str, int], ...]
    preempted: int
    displaced: int


@dataclass
class Traffic:
    """Counts since the start: `loads` of each adapter onto the device, how often blocks ran out and somebody
    was preempted, and how often somebody was displaced."""

    loads: Counter[str] = field(default_factory=Counter)
    preempted: int = 0
    displaced: int = 0

    def report(self) -> TrafficReport:
        """The sums, and the `MOST_LOADED` adapters."""
        total = self.loads.total()
        most = tuple(self.loads.most_common(MOST_LOADED))
        return TrafficReport(total, total - len(self.loads), most, self.preempted, self.displaced)
