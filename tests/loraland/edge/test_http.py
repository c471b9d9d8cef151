"""What a connection may take before anybody is known: bytes, time and places."""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from loraland.edge import connections
from loraland.edge.crowd import places
from loraland.edge.http import MAX_HEAD_BYTES, MAX_HEADERS
from loraland.edge.proxies import Proxies
from tests.loraland.server import Server
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks from other addresses of the loopback network")

STRANGER = "127.0.0.2"
LONG = 2 * MAX_HEAD_BYTES
ENOUGH = 32 * 2**20
"""Bytes that a sender may get rid of before it learns of its refusal: the kernel's buffers take some."""


class Reader:
    """An application that reads a whole body and tells its length, and notes what it was asked."""

    def __init__(self) -> None:
        self.heads: list[dict[bytes, bytes]] = []
        self.left = 0
        self.is_early = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            return await self._socket(receive, send)
        size, more = 0, not self.is_early
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            size, more = size + len(message["body"]), message["more_body"]
        self.heads.append(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"read {size}".encode()})

    async def _socket(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        self.left += 1


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ROUND_SECONDS", 0.1)


@pytest.fixture
def application() -> Reader:
    return Reader()


@pytest.fixture
def server(application: Reader) -> Iterator[Server]:
    server = Server(application)
    yield server
    server.close()


class Caller:
    """A raw connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.sent = 0

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        self.sent += len(data)
        await self._writer.drain()

    async def say_on_and_on(self, data: bytes, seconds: float = 0) -> None:
        """Send the same again and again until the server has had enough."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while not self._reader.at_eof():
                    await self.say(data)
                    await asyncio.sleep(seconds)
                    assert self.sent < ENOUGH, "the server takes it for ever"

    async def hear(self) -> bytes:
        """Everything up to the end of the connection."""
        heard = b""
        try:
            while data := await self._reader.read(2**16):
                heard += data
        except ConnectionError:
            pass
        return heard

    async def hear_answer(self) -> bytes:
        """One answer of `Reader`, whose connection stays open."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        return head + await self._reader.readuntil(b"0\r\n\r\n")


@asynccontextmanager
async def calling(server: Server, source: str = STRANGER) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(source, 0))
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the event is in another thread
            await asyncio.sleep(0.02)


GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
UPGRADE = (
    GET + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


# Bytes


async def test_a_request_of_usual_size_is_answered_and_the_connection_kept(server):
    async with calling(server) as caller:
        for _ in range(3):
            await caller.say(GET + b"cookie: " + b"x" * 8000 + b"\r\n\r\n")
            assert b"read 0" in await caller.hear_answer()


@pytest.mark.parametrize("line", [b"x" * 4096, b"name: value\r\n" * 300])
async def test_headers_without_end_are_refused_and_the_connection_closed(server, application, line):
    async with calling(server) as caller:
        await caller.say(GET + (b"cookie: " if line.isalpha() else b""))
        await caller.say_on_and_on(line)
        assert application.heads == []


@pytest.mark.parametrize("start", [GET, UPGRADE])
@pytest.mark.parametrize("headers", [b"cookie: " + b"x" * LONG + b"\r\n", b"x: y\r\n" * (MAX_HEADERS + 1)])
async def test_a_head_that_is_whole_and_too_large_is_refused_unasked(server, application, start, headers):
    async with calling(server) as caller:
        await caller.say(start + headers + b"\r\n")
        heard = await caller.hear()
    assert heard.startswith(b"HTTP/1.1 431 ")
    assert application.heads == []


@pytest.mark.parametrize("tail", [b"0\r\n", b"0\r\nx: ", b"1;"])
async def test_what_follows_a_body_has_an_end_too(server, application, tail):
    async with calling(server) as caller:
        await caller.say(POST + tail)
        await caller.say_on_and_on(b"x: y\r\n" * 1000 if tail == b"0\r\n" else b"x" * 6000)
    await eventually(lambda: application.left == 1)


async def test_what_stands_behind_a_body_is_no_header(server, application):
    async with calling(server) as caller:
        await caller.say(POST + b"3\r\nabc\r\n0\r\nx-forwarded-for: 203.0.113.9\r\n\r\n")
        assert b"read 3" in await caller.hear_answer()
    assert b"x-forwarded-for" not in application.heads[0]


# Time


@pytest.mark.parametrize("begun", [b"", GET, UPGRADE])
async def test_half_a_request_is_not_waited_for(server, begun):
    async with calling(server) as caller:
        await caller.say(begun)
        assert (await caller.hear()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("crumb", [b"x: y\r\n", b"x"])
async def test_a_request_that_trickles_in_is_not_waited_for(server, crumb):
    async with calling(server) as caller:
        await caller.say(GET)
        await caller.say_on_and_on(crumb, 0.05)


async def test_a_kept_connection_does_not_trickle_either(server):
    async with calling(server) as caller:
        await caller.say(GET + b"\r\n")
        await caller.hear_answer()
        await caller.say_on_and_on(b"\r\n", 0.05)


async def test_a_body_that_trickles_in_is_not_waited_for(server, application):
    async with calling(server) as caller:
        await caller.say(POST)
        await caller.say_on_and_on(b"1\r\nx\r\n", 0.05)
    await eventually(lambda: application.left == 1)


async def test_a_body_that_comes_at_a_usual_pace_comes_in_whole_however_long_it_takes(server):
    async with calling(server) as caller:
        await caller.say(POST)
        for _ in range(2 * connections.PATIENCE):
            await caller.say(b"2000\r\n" + b"x" * 8192 + b"\r\n")
            await asyncio.sleep(0.1)
        await caller.say(b"0\r\n\r\n")
        assert f"read {2 * connections.PATIENCE * 8192}".encode() in await caller.hear_answer()


async def test_a_body_that_nobody_reads_any_more_is_not_taken_for_ever(server, application):
    application.is_early = True
    async with calling(server) as caller:
        await caller.say(POST)
        await caller.hear_answer()
        await caller.say_on_and_on(b"2000\r\n" + b"x" * 8192 + b"\r\n", 0.01)


# Places


async def refused(server: Server, source: str = STRANGER) -> bytes:
    async with calling(server, source) as caller:
        return (await caller.hear()).split(b"\r\n")[0]


async def test_an_address_has_so_many_connections_and_gets_a_place_back(server, settings):
    settings.TRUSTED_PROXIES, settings.MAX_CONNECTIONS_PER_ADDRESS = (), 2
    async with calling(server), calling(server) as second:
        await second.say(UPGRADE + b"\r\n")
        assert await refused(server) == b"HTTP/1.1 429 Too Many Requests"
        async with calling(server, "127.0.0.3") as other:
            await other.say(GET + b"\r\n")
            assert b"read 0" in await other.hear_answer()
    await eventually_answered(server)


async def eventually_answered(server: Server) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with calling(server) as caller:
                await caller.say(GET + b"connection: close\r\n\r\n")
                if b" 200 " in await caller.hear():
                    return


async def test_the_site_has_so_many_connections_in_all_and_some_to_spare_for_its_health_checks(application, settings):
    settings.MAX_CONNECTIONS = 2
    settings.INTERNAL_ADDRESSES = (ipaddress.ip_network("127.0.0.1"),)
    server = Server(application)
    try:
        async with calling(server), calling(server, "127.0.0.3"):
            assert await refused(server, "127.0.0.4") == b"HTTP/1.1 503 Service Unavailable"
            async with calling(server, "127.0.0.1") as check:
                await check.say(GET + b"\r\n")
                assert b"read 0" in await check.hear_answer()
        await eventually_answered(server)
    finally:
        server.close()


async def test_a_proxy_has_as_many_connections_as_it_needs_and_its_visitors_are_counted_one_by_one(settings):
    settings.TRUSTED_PROXIES = (ipaddress.ip_network("127.0.0.1"),)
    settings.MAX_CONNECTIONS_PER_ADDRESS = 2
    application = Proxies(Reader())
    server = Server(application)
    waiting = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\nx-forwarded-for: %s\r\n\r\n"
    try:
        async with (
            calling(server, "127.0.0.1") as first,
            calling(server, "127.0.0.1") as second,
            calling(server, "127.0.0.1") as third,
            calling(server, "127.0.0.1") as other,
        ):
            await first.say(waiting % b"192.0.2.1")
            await second.say(waiting % b"192.0.2.1")
            await eventually(lambda: application._crowd._inside["192.0.2.1"] == 2)
            await third.say(waiting % b"192.0.2.1" + b"x")
            assert b" 429 " in await third.hear_answer()
            await other.say(waiting % b"192.0.2.2" + b"x")
            assert b" 200 " in await other.hear_answer()
            await first.say(b"x")
            assert b" 200 " in await first.hear_answer()
            await third.say(waiting % b"192.0.2.1" + b"x")
            assert b" 200 " in await third.hear_answer()
    finally:
        server.close()


def test_there_are_no_more_places_than_files_may_be_open(settings):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    settings.MAX_CONNECTIONS = 100
    assert places() == 100
    settings.MAX_CONNECTIONS = 1_000_000_000
    assert places() < 1_000_000_000
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
