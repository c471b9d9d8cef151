"""Which parts of the model the adapters of a pass change.

A pass leaves out the kernels of adapters where none of them has anything to add, as those that find nothing to do take
their time too.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from inference.decoders.gpu.kernels.slot_table import MEMBERS
from inference.model.spec import NORMS

_QKV: Final = frozenset(MEMBERS["qkv"])


class TargetModules(IntEnum):
    """What is changed. Of several the largest includes all; each makes graphs of its own."""

    NONE = 0
    QKV = 1
    """Queries, keys and values, as by the adapters of the paper, which have q_proj and v_proj."""
    ALL = 2
    """Any linear, the embedding and the head."""
    NORMS = 3
    """Biases of norms, too, which are rare: graphs of such passes are captured when they come."""
    GATED = 4
    """All of it, and blends, whose gates are asked; as rare."""

    def includes(self, product: str) -> bool:
        """Whether rows of `product`, a name of `kernels.slot_table.groups`, may be changed, or those of
        "norms"; or whether "gates" are asked."""
        if product in ("norms", "gates"):
            return self >= (TargetModules.NORMS if product == "norms" else TargetModules.GATED)
        return self >= TargetModules.ALL or (self is TargetModules.QKV and product == "qkv")


def target_modules(targets: Iterable[str], is_gated: bool = False) -> TargetModules:
    """The least that includes all `targets`, and gates if it `is_gated`."""
    names = set(targets)
    if is_gated:
        return TargetModules.GATED
    if not names:
        return TargetModules.NONE
    if names.intersection(NORMS):
        return TargetModules.NORMS
    return TargetModules.QKV if names <= _QKV else TargetModules.ALL
