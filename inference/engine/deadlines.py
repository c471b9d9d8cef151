"""First tokens that are due: who can make it no more is refused before its prompt is read (S-LoRA's early abort; Sheng
et al., 2023), for what is read for nothing makes others late as well.

How long a prompt takes is learned from those that were read here. Turns are not touched: who has had its share waits,
and is late, behind who has not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from inference.engine.answer import Answer
from inference.engine.incoming import Arrival
from inference.wire.failures import FailureCode
from inference.wire.fairness import of_party
from inference.wire.protocol import Generate, Request

FORGETTING: Final = 0.95
"""What an observation counts for beside the next one: some twenty are remembered."""
ENOUGH: Final = 4
"""Observations without which nothing is foretold, and nobody is refused before it is too late."""


class Pace:
    """How long a prompt takes from its start to its first token, as a line through what was observed lately."""

    def __init__(self) -> None:
        self._count = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def note(self, num_tokens: int, seconds: float) -> None:
        """A prompt of `num_tokens` took `seconds`."""
        self._count += 1
        sums = (self._weight, self._x, self._y, self._xx, self._xy)
        new = (1.0, num_tokens, seconds, num_tokens * num_tokens, num_tokens * seconds)
        self._weight, self._x, self._y, self._xx, self._xy = (
            FORGETTING * old + each for old, each in zip(sums, new, strict=True)
        )

    def seconds(self, num_tokens: int) -> float:
        """What `num_tokens` are likely to take; 0 while too little was seen to say."""
        if self._count < ENOUGH:
            return 0.0
        spread = self._weight * self._xx - self._x**2
        slope = (self._weight * self._xy - self._x * self._y) / spread if spread > 1e-6 * self._xx else 0.0
        slope = max(slope, 0.0)
        return max(self._y / self._weight + slope * (num_tokens - self._x / self._weight), 0.0)


class Deadlines:
    """Who is late. `defaults` are the seconds within which tenants, by name or kind, want a first token."""

    def __init__(self, defaults: Mapping[str, float] | None = None) -> None:
        self._defaults = defaults or {}
        self._prompts = Pace()
        self._waits = Pace()

    def overdue(self, arrivals: Iterable[Arrival], now: float) -> list[tuple[Request, float]]:
        """Those of `arrivals` whose adapters are still fetched and that are too late already, with the seconds that
        they have waited; `now` is of the clock of the requests. What another worker has begun is finished."""
        new = [arrival.request for arrival in arrivals if not arrival.resume]
        waited = [(request, now - (request.created or now)) for request in new]
        return [(request, seconds) for request, seconds in waited if 0 < self._within(request) < seconds]

    def late(self, answers: Iterable[Answer]) -> list[Answer]:
        """Those of `answers` that wait for their first pass and would have their first token too late."""
        waiting = [answer for answer in answers if not answer.has_begun and self._within(answer.request)]
        return [answer for answer in waiting if self.expected(answer) > self._within(answer.request)]

    def note(self, answer: Answer) -> None:
        """Learn from an answer that has just had its first token."""
        times = answer.times
        self._prompts.note(answer.sequence.num_prompt, times.first_token - times.admitted)
        self._waits.note(0, times.admitted - times.created)

    def refusal(self, request: Request, expected: float) -> tuple[FailureCode, str, int]:
        """What `request` ends with, whose first token would come `expected` seconds after it, and how many seconds
        others wait: so long another try is as late."""
        sentence = (
            f"Its first token was wanted within {self._within(request):g} s and would have come after "
            f"{expected:.1f} s, so it was not begun. Try again in a moment, or give it more time in "
            "first_token_within."
        )
        return "too_late", sentence, max(1, math.ceil(self._waits.seconds(0)))

    def expected(self, answer: Answer) -> float:
        """After how many seconds its first token would come, did it begin now."""
        waited = answer.clock() - answer.times.created
        return waited + self._prompts.seconds(answer.sequence.num_prompt)

    def _within(self, request: Request) -> float:
        """Seconds in which its first token is wanted; 0 where nobody says so."""
        if not isinstance(request, Generate):
            return 0.0
        return request.sampling.first_token_within or of_party(self._defaults, request.tenant, 0.0)
