"""The wire's public face: the one module through which the site and the worker speak to each other.

`RedisWire` carries everything between processes, `MemoryWire` inside one (for tests); both keep the contract
that `Wire` writes down.
"""

from __future__ import annotations

from inference.wire.contract import Claim, QueueFull, Receipt, Resume, ShareTaken, Wire, WireError, Write, position_of
from inference.wire.memory_wire import MemoryWire
from inference.wire.redis_wire import RedisWire
from inference.wire.room import Room

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
