"""`python -m loraland.web`: one web process: uvicorn with the site's own edge.

It listens on `HOST` and `PORT`, or on sockets that whoever starts it has opened: several processes share one.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

import uvicorn

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")

from django.conf import settings


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loraland.web", description="One web process.")
    parser.add_argument(
        "sockets", nargs="*", type=int, help="descriptors of listening sockets, instead of HOST and PORT"
    )
    sockets = [socket.socket(fileno=number) for number in parser.parse_args(arguments).sockets]
    serving = config()
    serving.load_app()  # before the edge, which needs the apps that it sets up
    server = uvicorn.Server(serving)
    server.run(sockets=sockets or None)
    return 0 if server.started else 1


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
