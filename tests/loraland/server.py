"""A real server for tests: uvicorn, with the site's own protocols, in a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn

from loraland import inference_client
from tests.patience import PATIENCE


class _Prompt(uvicorn.Server):
    """One that ends when it is told to: uvicorn's looks ten times a second, and then waits as long again."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._wake: Callable[[], object] = lambda: None

    async def main_loop(self) -> None:
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(ending.set)
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for _ in range(20):
            if not self.server_state.tasks:
                return
            await asyncio.sleep(0.005)

    def end(self) -> None:
        self.should_exit = self.force_exit = True
        self._wake()


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
        self._server = _Prompt(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        await inference_client.close()

    def connections(self) -> int:
        """How many connections it holds."""
        return len(self._server.server_state.connections)

    def close(self) -> None:
        self._server.end()
        self._thread.join(PATIENCE)
