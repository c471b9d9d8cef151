"""A client for OpenAI-compatible servers that costs next to no processor time while it measures.

Whatever arrives is kept with its time and read when the measurement is over.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.bench.workloads import Ask

TIMEOUT_SECONDS = 600


class Refused(RuntimeError):
    """A server that answered with anything but a complete stream."""


@dataclass(frozen=True)
class Sample:
    """One answer. Seconds: when it was sent (on the client's clock), to the first text, and to the last."""

    model: str
    sent: float
    first: float
    last: float
    tokens: int
    text: str

    @property
    def per_token(self) -> float:
        """Seconds from one token to the next, over the whole answer: a piece of a stream may hold several."""
        return (self.last - self.first) / max(self.tokens - 1, 1)


class Connection(asyncio.Protocol):
    """One connection that is kept; `post` sends one request and gives what came back with the times it came."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._host, self._port, self._key = host, port, key
        self._arrived: list[tuple[float, bytes]] = []
        self._ended: asyncio.Future[None] | None = None
        self.heard = asyncio.Event()
        """Set once the server has said anything: it accepted a request."""

    async def open(self) -> Connection:
        await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
        return self

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard.set()
        self._arrived.append((time.perf_counter(), data))
        # The last chunk of a chunked body is empty; inside the events no line ends so.
        if data.endswith(b"0\r\n\r\n") or not self._is_chunked():
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def close(self) -> None:
        self._transport.close()

    async def post(self, path: str, body: dict[str, Any]) -> tuple[float, list[tuple[float, bytes]]]:
        self._arrived, self._ended = [], asyncio.get_running_loop().create_future()
        sent = time.perf_counter()
        self._transport.write(_request(self._host, path, self._key, json.dumps(body).encode()))
        await asyncio.wait_for(self._ended, TIMEOUT_SECONDS)
        return sent, self._arrived

    def _is_chunked(self) -> bool:
        first = self._arrived[0][1]
        return b"\r\n\r\n" not in first or b"chunked" in first.partition(b"\r\n\r\n")[0].lower()

    def _end(self) -> None:
        if self._ended and not self._ended.done():
            self._ended.set_result(None)


async def connect(url: str, key: str) -> Connection:
    place = urlsplit(url)
    return await Connection(place.hostname or "127.0.0.1", place.port or 80, key).open()


def body_of(ask: Ask) -> dict[str, Any]:
    """A greedy, streamed completion; of exactly `ask.tokens` tokens when ends of sequence are ignored."""
    asked: dict[str, Any] = {"inputs": ask.inputs} if ask.inputs else {"prompt": ask.prompt}
    return asked | {
        "model": ask.model,
        "max_tokens": ask.tokens,
        "min_tokens": ask.tokens if ask.ignore_eos else 0,
        "ignore_eos": ask.ignore_eos,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def read(ask: Ask, sent: float, arrived: list[tuple[float, bytes]]) -> Sample:
    """What a stream said and when. Raises `Refused` unless it is whole and as long as was asked."""
    times, texts, tokens = [], [], 0
    for at, event in _events(arrived):
        if "error" in event:
            raise Refused(f"{ask.model}: {event['error']}")
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        if event["choices"] and event["choices"][0].get("text"):
            times.append(at)
            texts.append(event["choices"][0]["text"])
    if not times or (ask.ignore_eos and tokens != ask.tokens):
        raise Refused(f"{ask.model}: asked for {ask.tokens} tokens and got {tokens}")
    return Sample(ask.model, sent, times[0] - sent, times[-1] - sent, tokens, "".join(texts))


def _request(host: str, path: str, key: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _events(arrived: list[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """The server-sent events of a response, each with the time at which its last byte was there."""
    raw = b"".join(data for _, data in arrived)
    head, _, _ = raw.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise Refused(raw[-600:].decode(errors="replace"))
    ends, total = [], 0
    for _, data in arrived:
        total += len(data)
        ends.append(total)
    for end, chunk in _chunks(raw, len(head) + 4):
        at = arrived[bisect_left(ends, end)][0]
        for line in chunk.split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield at, json.loads(line[6:])


def _chunks(raw: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The chunks of a chunked body from `start` on, each with the offset behind its last byte."""
    while start < len(raw):
        line = raw.index(b"\r\n", start)
        size = int(raw[start:line], 16)
        yield line + 2 + size, raw[line + 2 : line + 2 + size]
        start = line + 2 + size + 2
