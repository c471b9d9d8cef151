"""Who owns what was claimed in Redis, and until when: the rule that requests and trainings share, in Lua.

Whoever claims writes a token of its own beside the claim, and every later write shows it. The lease is the score of a
sorted set, in milliseconds of the server's own clock, so that no two machines need agree on one.
"""

from __future__ import annotations

import re
from typing import Final

LEASE: Final = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function is_owner(claim, token) return redis.call('HGET', claim, 'token') == token end
local function begin_lease(line, id, length) redis.call('ZADD', line, now() + length, id) end
"""

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RESERVED: Final = frozenset(
    {"finished", "stops", "queue", "fingerprints", "servers", "homes", "holds", "heat", "conversation"}
)
"""What stands in keys in the place of an id."""


def check_id(id: str, noun: str = "generation") -> str:
    """`id` itself; raises ValueError when it cannot be part of a key."""
    if not _ID.fullmatch(id) or id in _RESERVED:
        raise ValueError(f"{noun} id {id[:80]!r} is not 1 to 64 letters, digits, hyphens or underscores")
    return id


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
