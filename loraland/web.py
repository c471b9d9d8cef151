"""`python -m loraland.web`: one web process: uvicorn with the site's own edge.

It listens on `HOST` and `PORT`, or on sockets that whoever starts it has opened: several processes share one.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

import uvicorn

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")

from django.conf import settings

OBJECTS: Final = 10_000
"""How many objects more there are when young ones are looked through; Python's own 700 are those of a single call."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loraland.web", description="One web process.")
    parser.add_argument(
        "sockets", nargs="*", type=int, help="descriptors of listening sockets, instead of HOST and PORT"
    )
    sockets = [socket.socket(fileno=number) for number in parser.parse_args(arguments).sockets]
    serving = config()
    serving.load_app()  # before the edge, which needs the apps that it sets up
    server = uvicorn.Server(serving)
    collect_seldom()
    server.run(sockets=sockets or None)
    return 0 if server.started else 1


def collect_seldom() -> None:
    """Look for circles of garbage after more objects than usual, and never again among those that are here for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS, *gc.get_threshold()[1:])


def config() -> uvicorn.Config:
    return uvicorn.Config(
        "loraland.asgi:application",
        host=settings.HOST,
        port=settings.PORT,
        log_level=settings.FRAMEWORKS_LOG_LEVEL,
        http="loraland.edge.http:Http",
        ws="loraland.edge.socket:Socket",
        server_header=False,
        proxy_headers=False,
        ws_max_size=65536,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    sys.exit(main())
