"""A bell beside the device: somebody has come who should not wait for the end of a long pass.

One thread rings it. The one that owns the device says before each pass whether it may be broken off, and the
decoder listens between two layers.
"""

from __future__ import annotations

import ctypes
from typing import Final

WHOLE_PASSES: Final = 8
"""Passes that are computed to their end after one that was broken off, so that little is computed twice."""


class BrokenOff(Exception):
    """A pass was given up because the bell rang. Nothing of it counts; whoever was in it is as before."""


class Bell:
    """Counts how often it was rung, in memory that a decoder can read."""

    def __init__(self) -> None:
        self._rings = ctypes.c_int64(0)
        self._num_whole = WHOLE_PASSES
        self.heard = 0
        """Rings that a pass need not heed."""
        self.is_open = False
        """Whether the pass that begins may be broken off."""

    @property
    def address(self) -> int:
        """Where the number of rings lies, an int64."""
        return ctypes.addressof(self._rings)

    @property
    def is_rung(self) -> bool:
        """Whether the pass under way should be broken off."""
        return self.is_open and self._rings.value > self.heard

    def ring(self) -> None:
        """Somebody has come. For one thread only."""
        self._rings.value += 1

    def hear(self) -> None:
        """Whoever has rung so far is known: a pass that is planned now has regard to all of them."""
        self.heard = self._rings.value

    def begin(self, may_break_off: bool) -> None:
        """A pass begins."""
        self.is_open = may_break_off and self._num_whole >= WHOLE_PASSES
        self._num_whole += 1

    def break_off(self) -> None:
        """The pass has been broken off."""
        self._num_whole = 0
