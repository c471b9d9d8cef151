"""How far into the model the adapters of a pass reach.

A pass leaves out the kernels of adapters where none of them has anything to add, as those that find nothing to do take
their time too.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from inference.decoders.gpu.kernels.slot_table import MEMBERS

_QKV: Final = frozenset(MEMBERS["qkv"])


class Reach(IntEnum):
    """What is changed. Of several the largest reaches as far as all; each makes graphs of its own."""

    NOTHING = 0
    QKV = 1
    """Queries, keys and values, as by the adapters of the paper, which have q_proj and v_proj."""
    EVERYTHING = 2

    def covers(self, product: str) -> bool:
        """Whether rows of `product`, a name of `kernels.slot_table.groups`, may be changed."""
        return self is Reach.EVERYTHING or (self is Reach.QKV and product == "qkv")


def reach_of(targets: Iterable[str]) -> Reach:
    """The least that has all `targets`."""
    names = set(targets)
    if not names:
        return Reach.NOTHING
    return Reach.QKV if names <= _QKV else Reach.EVERYTHING
