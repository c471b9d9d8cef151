"""A real server for tests: uvicorn, with the site's own protocols, in a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import uvicorn

from loraland import inference_client


class Server:
    """`application` at `url`; `options` are uvicorn's, `buffer` the bytes that the kernel keeps for a slow reader."""

    def __init__(self, application: Any, buffer: int = 0, **options: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        options = {"http": "loraland.edge.http:Http", "ws": "loraland.edge.socket:Socket", **options}
        config = uvicorn.Config(application, lifespan="off", log_level="warning", proxy_headers=False, **options)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        await inference_client.close()

    def connections(self) -> int:
        """How many connections it holds."""
        return len(self._server.server_state.connections)

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)
