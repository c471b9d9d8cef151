"""Where the embedded Redis listens: one answer for the site, the worker and every command."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Final

LONGEST_SOCKET: Final = 100
"""Unix socket paths are limited to 104 bytes on macOS and 108 on Linux."""


def embedded_redis_url(var_dir: Path) -> str:
    """The URL of the socket under `var_dir`, or under the temporary directory where that path is too long."""
    path = var_dir.resolve() / "redis.sock"
    if len(str(path)) > LONGEST_SOCKET:
        path = Path(tempfile.gettempdir()) / f"loraland-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.sock"
    return f"unix://{path}"
