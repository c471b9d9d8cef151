"""Readers that do not read: they are dropped, their answers stopped, and nothing of theirs is kept."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from inference.wire.protocol import Delta, Finished
from loraland.api.models import ApiKey
from loraland.asgi import application
from loraland.edge import connections
from loraland.edge.socket import MAX_WAITING_BYTES
from loraland.playground import consumers
from loraland.playground.consumers import AnswersConsumer
from tests.loraland.playground.page import Browser
from tests.loraland.server import Server
from tests.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

BUFFER = 16 * 1024
PIECE = "many words " * 1500
PIECES = 200


def long(request: Any) -> list[Any]:
    return [Delta(request.id, PIECE) for _ in range(PIECES)]


def long_and_whole(request: Any) -> list[Any]:
    return [*long(request), Finished(request.id, "done")]


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ROUND_SECONDS", 0.1)


@pytest.fixture
def server(transactional_db: None, site_wire: Any) -> Iterator[Server]:
    server = Server(application, BUFFER)
    yield server
    server.close()


@asynccontextmanager
async def calling(server: Server) -> AsyncIterator[socket.socket]:
    """A connection whose end keeps as little as a kernel lets it."""
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.setblocking(False)
        await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", server.port))
        yield caller


async def say(caller: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(caller, data)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the event is in another thread
            await asyncio.sleep(0.02)


def call(secret: str) -> bytes:
    body = json.dumps({"model": "base", "stream": True, "messages": [{"role": "user", "content": "Go on"}]})
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"connection: close\r\nauthorization: Bearer {secret}\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def test_a_stream_that_nobody_reads_is_ended_and_its_answer_stopped(server, answering):
    worker = answering(long)
    _, secret = await sync_to_async(ApiKey.objects.issue)("tests")
    async with calling(server) as caller:
        await say(caller, call(secret))
        await eventually(lambda: len(worker.stopped) == 1)


async def test_a_stream_that_is_read_slowly_comes_whole(server, answering):
    answering(long_and_whole)
    _, secret = await sync_to_async(ApiKey.objects.issue)("tests")
    heard = b""
    async with calling(server) as caller:
        await say(caller, call(secret))
        while data := await asyncio.get_running_loop().sock_recv(caller, 2**16):
            heard += data
            await asyncio.sleep(0.002)
    assert heard.count(b"many words") == 1500 * PIECES
    assert b"data: [DONE]" in heard


def handshake(browser: Browser) -> bytes:
    return (
        "GET /ws/answers/ HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\nconnection: upgrade\r\n"
        "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"cookie: sessionid={browser.session_key}\r\n\r\n"
    ).encode()


def frame(opcode: int, payload: bytes) -> bytes:
    """A frame of a client, masked by nothing but zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload


async def open_socket(caller: socket.socket, browser: Browser) -> None:
    await say(caller, handshake(browser))
    assert (await asyncio.get_running_loop().sock_recv(caller, 12)) == b"HTTP/1.1 101"


async def test_a_socket_that_nobody_reads_is_dropped_and_gives_its_place_back(server, answering, monkeypatch):
    monkeypatch.setattr(consumers, "SEND_SECONDS", 0.2)
    worker = answering(long)
    browser = await Browser().visit()
    start = {"type": "start", "request": "r", "conversation": None, "adapter": "", "text": "Go on"}
    async with calling(server) as caller:
        await open_socket(caller, browser)
        await eventually(lambda: AnswersConsumer.sockets[browser.visitor.tenant] == 1)
        await say(caller, frame(1, json.dumps(start).encode()))
        await eventually(lambda: len(worker.seen) == 1)
        await eventually(lambda: not AnswersConsumer.sockets[browser.visitor.tenant])
        await eventually(lambda: not server.connections())


async def test_pings_whose_answers_nobody_reads_are_not_answered_for_ever(server, monkeypatch):
    monkeypatch.setattr(connections, "ROUND_SECONDS", 3600)
    browser = await Browser().visit()
    pings, sent = frame(9, os.urandom(125)) * 500, 0
    async with calling(server) as caller:
        await open_socket(caller, browser)
        try:
            while sent < 16 * MAX_WAITING_BYTES:
                await say(caller, pings)
                sent += len(pings)
        except ConnectionError:
            return
    raise AssertionError("every ping was answered, to nobody")
