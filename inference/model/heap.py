"""The memory of a process: what was freed goes back to the system, so that loading a base takes what the base takes."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

_STATM: Final = Path("/proc/self/statm")


def trim_heap() -> None:
    """Give back the free pages between what is in use. Without effect where the C library is not GNU's."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """What this process has in memory; where the system does not tell that, the most that it ever had."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
