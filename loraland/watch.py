"""Whether a child still answers: looks at it, counted, until too many in a row were in vain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

SECONDS_A_LOOK: Final = 10.0
"""After so long a look is in vain. An answer takes milliseconds, and a second or two where the machine is busy."""


class Unwell(Exception):
    """A service does not do its work, for a reason that starting it again would not change; or nobody can tell."""


class Silent(Unwell):
    """A service gives no sign of life. The message says which was looked for."""


@dataclass(frozen=True)
class Watch:
    """How a sign of life is looked for: `look` returns when there is one, and raises `Unwell` within `SECONDS_A_LOOK`.

    One look every `every` seconds; `patience` in a row in vain are too many, and before the first sign `grace`.
    Looks are counted and not seconds, since after a sleep of the whole machine much time seems to have passed.
    """

    look: Callable[[], Awaitable[None]]
    every: float = 10.0
    patience: int = 12
    grace: int = 36

    async def silence(self) -> str:
        """Wait until nothing was heard for too long; what was looked for in vain."""
        missed, patience = 0, self.grace
        while True:
            begun = time.monotonic()
            await asyncio.sleep(self.every)
            try:
                await self.look()
            except Silent as error:
                missed += 1
                if time.monotonic() - begun > 2 * (self.every + SECONDS_A_LOOK):
                    missed = 0  # we were stopped or starved ourselves, and look again
                elif missed >= patience:
                    return str(error)
            except Unwell:
                continue
            else:
                missed, patience = 0, self.patience
