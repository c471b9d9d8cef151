"""What a worker has claimed, told with its heartbeat."""

from __future__ import annotations

from collections.abc import Collection

from inference.wire.contract import Claim
from inference.wire.protocol import ClaimCounts, Generate


class Tally:
    """Counts claims by whether the worker held what they ask for."""

    def __init__(self) -> None:
        self.counts = ClaimCounts()

    def count(self, claim: Claim, held: Collection[str], running: Collection[Claim]) -> None:
        """Count `claim` as one of an adapter that is among those `held`, or on its way for one that is `running`."""
        wanted = _digest_of(claim)
        is_hit = bool(wanted) and (wanted in held or any(_digest_of(other) == wanted for other in running))
        self.counts = ClaimCounts(
            self.counts.hits + is_hit,
            self.counts.misses + (bool(wanted) and not is_hit),
            self.counts.stolen + claim.is_stolen,
        )


def _digest_of(claim: Claim) -> str:
    request = claim.request
    return request.adapter.digest if isinstance(request, Generate) and request.adapter else ""
