"""An interrupt beside the device: somebody has come who should not wait for the end of a long pass.

One thread requests it. The one that owns the device says before each pass whether it may be interrupted, and the
decoder looks between two layers.
"""

from __future__ import annotations

import ctypes
from typing import Final

WHOLE_PASSES: Final = 8
"""Passes that are computed to their end after one that was interrupted, so that little is computed twice."""


class Interrupted(Exception):
    """A pass was given up because somebody has come. Nothing of it counts; whoever was in it is as before."""


class Interrupt:
    """Counts how often it was requested, in memory that a decoder can read."""

    def __init__(self) -> None:
        self._requests = ctypes.c_int64(0)
        self._num_whole = WHOLE_PASSES
        self.acknowledged = 0
        """Requests that a pass need not heed."""
        self.is_allowed = False
        """Whether the pass that begins may be interrupted."""

    @property
    def address(self) -> int:
        """Where the number of requests lies, an int64."""
        return ctypes.addressof(self._requests)

    @property
    def is_due(self) -> bool:
        """Whether the pass under way should be given up."""
        return self.is_allowed and self._requests.value > self.acknowledged

    def request(self) -> None:
        """Somebody has come. For one thread only."""
        self._requests.value += 1

    def acknowledge(self) -> None:
        """Whoever has come so far is known: a pass that is planned now has regard to all of them."""
        self.acknowledged = self._requests.value

    def begin(self, is_allowed: bool) -> None:
        """A pass begins."""
        self.is_allowed = is_allowed and self._num_whole >= WHOLE_PASSES
        self._num_whole += 1

    def abandon(self) -> None:
        """The pass has been given up."""
        self._num_whole = 0
