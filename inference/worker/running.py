"""One claimed request on its way: what the engine said of it, and how much of that the wire holds.

Events gather here between two flushes. Once they have been offered to the wire they are an entry, which never
changes: after a broken connection the same entries are offered again and the wire skips those it has.
"""

from __future__ import annotations

from dataclasses import replace

from inference.wire.contract import Claim, Receipt, Write
from inference.wire.protocol import Delta, Event, Failed, Finished, is_terminal


class Running:
    """A claim and its log. `ticket` is the number of the device's command that added it."""

    def __init__(self, claim: Claim, ticket: int) -> None:
        self.claim = claim
        self.ticket = ticket
        self.is_alone = claim.is_alone
        """Whether nothing else may run beside it yet."""
        self.is_stopping = False
        self.is_ended = False
        self.is_urgent = False
        """Whether a reader waits for what has been taken: its first words or its end."""
        self._has_streamed = claim.resumed is not None
        self._loose: list[Event] = []
        self._entries: list[Event] = []
        self._written = 0

    def take(self, event: Event) -> None:
        """Keep `event` for the next flush."""
        if isinstance(event, Finished | Failed):
            self.is_ended = self.is_urgent = True
            event = replace(event, stats=replace(event.stats, takeovers=self.claim.attempts - 1))
        elif isinstance(event, Delta) and not self._has_streamed:
            self._has_streamed = self.is_urgent = True
        self._loose.append(event)

    def write(self) -> Write | None:
        """What the wire does not hold yet, None when it has everything."""
        self._entries += coalesce(self._loose)
        self._loose, self.is_urgent = [], False
        rest = self._entries[self._written :]
        return Write(self.claim, tuple(rest), self.claim.length + self._written) if rest else None

    def settle(self, receipt: Receipt) -> None:
        """Learn from a receipt how much the wire holds: less than before, when it crashed and lost a moment."""
        self._written = min(receipt.length - self.claim.length, len(self._entries))

    @property
    def is_broken(self) -> bool:
        """Whether the wire lost entries that an earlier worker wrote, which only a new claim can mend."""
        return self._written < 0

    @property
    def has_more(self) -> bool:
        """Whether there is anything that the wire does not hold."""
        return bool(self._loose) or self._written < len(self._entries)

    @property
    def is_over(self) -> bool:
        """Whether the wire holds everything, the terminal event too."""
        return self.is_ended and not self.has_more


def coalesce(events: list[Event]) -> list[Event]:
    """`events` with neighbouring deltas made one; nothing moves past a terminal event."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, Delta) and isinstance(last, Delta):
            merged[-1] = Delta(
                id=last.id,
                text=last.text + event.text,
                token_ids=last.token_ids + event.token_ids,
                logprobs=last.logprobs + event.logprobs,
                weights=last.weights + event.weights,
            )
        elif last is None or not is_terminal(last):
            merged.append(event)
    return merged
