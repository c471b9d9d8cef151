"""What the events of an answer tell, of which its row is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from inference.wire.protocol import Delta, Event


@dataclass(frozen=True)
class Told:
    """The whole answer, and where a blend gave it what weighed each of its tokens: a text and the weights of the parts,
    as plain values."""

    text: str = ""
    weights: list[list[Any]] = field(default_factory=list)


def told_by(events: Iterable[Event]) -> Told:
    """What `events`, all of an answer, tell."""
    deltas = [event for event in events if isinstance(event, Delta)]
    weights = [[each.token, list(each.parts)] for delta in deltas for each in delta.weights]
    return Told("".join(delta.text for delta in deltas), weights)
