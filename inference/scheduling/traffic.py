"""How often adapters and requests have changed places on a worker, for its heartbeat."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

MOST_LOADED: Final = 64


@dataclass
class Traffic:
    """Counts since the start: `loads` of each adapter onto the device, how often blocks ran out and somebody
    was preempted, and how often somebody was displaced."""

    loads: Counter[str] = field(default_factory=Counter)
    preempted: int = 0
    displaced: int = 0

    @property
    def reloads(self) -> int:
        """Loads of adapters that had been on the device before."""
        return self.loads.total() - len(self.loads)

    @property
    def most_loaded(self) -> tuple[tuple[str, int], ...]:
        """The adapters that were loaded most often, and how often."""
        return tuple(self.loads.most_common(MOST_LOADED))
