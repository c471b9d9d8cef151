"""How long a test waits for what must come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

PATIENCE: Final = 300
"""Seconds until a test gives up what never comes. A wait ends with what it waits for, so that only a failure takes so
long; beside the rest of a suite a machine of two cores may need minutes for what it else does at once."""


def patiently() -> Iterator[None]:
    """As many rounds of a loop as there is patience for; each looks for something and sleeps."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
