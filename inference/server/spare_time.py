"""A process that computes only when nobody else would, and how much it gets to compute."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

LEAST: Final = 19
"""The lowest priority there is, by its niceness."""
Share = Literal["spare", "full"]
"""Of the processor: what nobody else wants, or as much as any other process gets."""
AUTOGROUP: Final = Path("/proc/self/autogroup")


def take_spare_time() -> None:
    """Give this process, and the threads that it will start, the lowest priority.

    Where Linux gives each session a share of its own, priorities count within a session only: in the first process of
    a session the share is made small as well.
    """
    os.nice(LEAST)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # In anybody else's session it would slow down the others; and most kernels of servers are built without it.
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            AUTOGROUP.write_text(str(LEAST))


def processor_seconds(pid: int) -> float | None:
    """The processor time that process `pid` has had; None where the system does not tell, or it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
