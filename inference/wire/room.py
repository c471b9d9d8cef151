"""How many more requests a worker would take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """`total` requests of any class; then `chat` more of class chat, which may displace evaluation; then `guests`
    more of class chat, one of each tenant that has none here, so that nobody's long queue hides another's first.
    """

    total: int = 0
    chat: int = 0
    guests: int = 0

    def __bool__(self) -> bool:
        return bool(self.total or self.chat or self.guests)

    def exceeds(self, other: Room) -> bool:
        """Whether there is more room of some kind than in `other`."""
        return self.total > other.total or self.chat > other.chat or self.guests > other.guests

    def less(self, taken: int) -> Room:
        """The room that is left after `taken` requests."""
        total, chat = max(0, self.total - taken), max(0, self.chat - max(0, taken - self.total))
        return Room(total, chat, max(0, self.guests - max(0, taken - self.total - self.chat)))
