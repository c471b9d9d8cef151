"""HTTP with an end: what a request may take in bytes and in time before anybody is known.

uvicorn's own protocol keeps headers without end, and waits for the rest of a head, a body or a reader for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from loraland.edge.connections import PATIENCE, ROUND_SECONDS, Writing, connections_of
from loraland.gate import Receive, Scope, Send

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 256
LEAST_RATE: Final = 500
"""Bytes a second that a body brings at least."""

HEAD_TOO_LARGE: Final = (431, f"A request's headers take {MAX_HEAD_BYTES // 1024} KB at most; delete cookies.")
TOO_SLOW: Final = (408, "The request took too long to come in; send it again.")


class Http(HttpToolsProtocol):
    """A connection whose requests come in whole, small enough and soon enough, or not at all."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._part = "head"
        self._unframed = 0  # bytes that belong to no body, since the last thing that was whole
        self._head = 0
        self._came = 0  # bytes since the last round
        self._rounds = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._writing = Writing(transport)
        refusal = connections_of(self.server_state).enter(transport, self)
        if refusal is not None:
            self.refuse(*refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        connections_of(self.server_state).leave(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._part and self._is_idle():
            self._begin("head")
        self._came += len(data)
        self._unframed += len(data)
        super().data_received(data)
        if self._unframed > MAX_HEAD_BYTES:
            self.refuse(*HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; those that come behind a body are read by nobody, and could claim what a proxy would not."""
        if self._part != "body":
            self._head += len(name) + len(value)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._begin("body")
        app = self.app
        if self._is_head_too_large():
            self.app = head_too_large
        super().on_headers_complete()
        self.app = app

    def on_body(self, body: bytes) -> None:
        self._unframed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._begin("")
        super().on_message_complete()

    def resume_writing(self) -> None:
        self._writing.went_on()
        super().resume_writing()

    def look(self) -> None:
        if self._writing.is_stuck():
            self.transport.abort()
        elif self._is_slow():
            self.refuse(*TOO_SLOW)

    def refuse(self, status: int, sentence: str) -> None:
        """Answer, where no other answer has begun, and close."""
        if self.transport.is_closing():
            return
        is_answering = self.pipeline or (self.cycle and self.cycle.response_started and not self._is_idle())
        if not is_answering:
            self.transport.write(_answer(status, sentence))
        self.transport.close()

    def _begin(self, part: str) -> None:
        self._part, self._unframed, self._rounds, self._came = part, 0, 0, 0

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _is_head_too_large(self) -> bool:
        return self._head > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS

    def _should_upgrade(self) -> bool:
        return super()._should_upgrade() and not self._is_head_too_large()

    def _is_slow(self) -> bool:
        """Count one more round in which a head was not whole yet, or too little of a body came that somebody reads."""
        came, self._came = self._came, 0
        is_getting_on = came >= LEAST_RATE * ROUND_SECONDS or self.flow.read_paused
        if self._part == "body" and is_getting_on and not self._is_idle():
            self._rounds = 0
        elif self._part:
            self._rounds += 1
        return self._rounds >= PATIENCE


async def head_too_large(scope: Scope, receive: Receive, send: Send) -> None:
    status, sentence = HEAD_TOO_LARGE
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


def _answer(status: int, sentence: str) -> bytes:
    retry = b"retry-after: 10\r\n" if status in (429, 503) else b""
    head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n" % len(sentence)
    return STATUS_LINE[status] + head + retry + b"\r\n" + sentence.encode()
