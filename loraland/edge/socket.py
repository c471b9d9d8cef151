"""WebSockets that end when the other end does not read: what waits for it is bounded in bytes and in time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from loraland.edge.connections import Writing, connections_of

MAX_WAITING_BYTES: Final = 4 * 2**20


class Socket(WebSocketsSansIOProtocol):
    """A socket that took over the connection of its handshake.

    Closing waits for what was written to be taken, for ever if the other end does not read; so it is aborted.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._connections = connections_of(more["server_state"])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._writing = Writing(self.transport)
        self._connections.take_over(self.transport, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pings are answered without asking whether the answers before were taken."""
        if self.transport.get_write_buffer_size() > MAX_WAITING_BYTES:
            return self.transport.abort()
        super().data_received(data)

    def resume_writing(self) -> None:
        self._writing.went_on()
        super().resume_writing()

    def look(self) -> None:
        if self._writing.is_stuck():
            self.transport.abort()
