"""The bases among whose adapters `auto` chooses."""

from __future__ import annotations

from inference.wire.contract import WireError
from loraland import bases
from loraland.bases import AUTO, BASE, Base
from loraland.catalogue.composition import base_called
from loraland.inference_client import ready_worker


async def reachable(name: str = AUTO) -> list[Base]:
    """The bases that ``auto``, or ``auto:`` and a base's name, leaves to choose from: those with a ready worker, and
    all where there is no such one. Raises `Refused` for one that is not served."""
    base = bases.without_auto(name)
    named = list(bases.served()) if base == BASE else [base_called(base)]
    if len(named) == 1:
        return named
    return [base for base in named if await _is_up(base)] or named


async def _is_up(base: Base) -> bool:
    try:
        return await ready_worker(base) is not None
    except WireError:
        return False
