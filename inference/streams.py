"""The wire's public face: the one module through which the site and the worker speak to each other.

`RedisWire` carries everything between processes, `MemoryWire` inside one (for tests); both keep the contract
that `Wire` writes down.
"""

from __future__ import annotations

from inference.memory_wire import MemoryWire
from inference.redis_wire import RedisWire
from inference.room import Room
from inference.sequence import Resume
from inference.wire import Claim, QueueFull, Receipt, ShareTaken, Wire, WireError, Write, position_of

__all__ = [
    "Claim",
    "MemoryWire",
    "QueueFull",
    "Receipt",
    "RedisWire",
    "Resume",
    "Room",
    "ShareTaken",
    "Wire",
    "WireError",
    "Write",
    "position_of",
]
