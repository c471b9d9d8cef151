"""How many more requests a worker would accept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capacity:
    """`total` requests of any class; then `chat` more of class chat, which may displace evaluation; then
    `newcomers` more of class chat, one of each tenant that has none here, so that nobody's long queue hides another's
    first. Of all these `idle` could run at once, and the others would wait here; below 0, so many wait here already.
    """

    total: int = 0
    chat: int = 0
    newcomers: int = 0
    idle: int = 0

    def __bool__(self) -> bool:
        return bool(self.total or self.chat or self.newcomers)

    def exceeds(self, other: Capacity) -> bool:
        """Whether there is more of some kind than in `other`."""
        return self.total > other.total or self.chat > other.chat or self.newcomers > other.newcomers

    def less(self, taken: int) -> Capacity:
        """What is left after `taken` requests."""
        total, chat = max(0, self.total - taken), max(0, self.chat - max(0, taken - self.total))
        newcomers = max(0, self.newcomers - max(0, taken - self.total - self.chat))
        return Capacity(total, chat, newcomers, self.idle - taken)
