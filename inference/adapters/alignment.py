"""How the ranks of several adapters lie side by side under a gate."""

from __future__ import annotations

from typing import Final

PART_STEP: Final = 2
"""A part's ranks begin at a multiple of this, which is what a processor multiplies at once: then a coefficient of one
beside zeros leaves the sums, and their order, of the part alone."""


def aligned(rank: int) -> int:
    """How many ranks a part of `rank` takes in a blend."""
    return -(-rank // PART_STEP) * PART_STEP
