"""Whose address counts behind a reverse proxy: the visitor's own, and none that the visitor made up."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from loraland import environment
from loraland.edge.addresses import network
from loraland.edge.proxies import Proxies
from tests.loraland.server import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks from other addresses of the loopback network")

PROXY, VISITOR = "127.0.0.1", "127.0.0.2"
FORGED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """An application that tells who it believes to be asked by."""
    told = json.dumps({"client": scope["client"] and scope["client"][0], "scheme": scope["scheme"]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": told})


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(Proxies(tell))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def one_proxy(settings: Any) -> None:
    trust(settings, PROXY)


def trust(settings: Any, *addresses: str) -> None:
    settings.TRUSTED_PROXIES = tuple(map(ipaddress.ip_network, addresses))


async def ask(port: int, headers: dict[str, str], source: str = VISITOR) -> dict[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    lines = [f"{name}: {value}" for name, value in {"Host": "localhost", **headers}.items()]
    writer.write("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode())
    answer = await reader.read()
    writer.close()
    return json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])


@asynccontextmanager
async def proxy(upstream: int) -> AsyncIterator[int]:
    """A reverse proxy that adds where each connection comes from, as proxies do, and passes the rest on as it is."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        peer = writer.get_extra_info("peername")[0]
        inner, outer = await asyncio.open_connection("127.0.0.1", upstream, local_addr=(PROXY, 0))
        outer.write(head[:-2] + f"X-Forwarded-For: {peer}\r\nX-Forwarded-Proto: http\r\n\r\n".encode())
        writer.write(await inner.read())
        writer.close()
        outer.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_visitor_behind_a_trusted_proxy_has_an_address_of_its_own(server):
    async with proxy(server.port) as port:
        assert await ask(port, {}) == {"client": VISITOR, "scheme": "http"}


async def test_a_visitor_cannot_forge_its_address_or_its_scheme_through_a_proxy(server):
    async with proxy(server.port) as port:
        assert await ask(port, FORGED) == {"client": VISITOR, "scheme": "http"}


async def test_a_visitor_who_comes_without_a_proxy_is_not_believed(server):
    assert await ask(server.port, FORGED) == {"client": VISITOR, "scheme": "http"}
    assert await ask(server.port, FORGED, PROXY) == {"client": "203.0.113.9", "scheme": "https"}


async def test_the_last_hop_that_is_no_proxy_counts_however_many_proxies_there_are(server, settings):
    async with proxy(server.port) as inner, proxy(inner) as outer:
        trust(settings, PROXY)
        assert (await ask(outer, FORGED))["client"] == VISITOR


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("198.51.100.7:4711", "198.51.100.7"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("198.51.100.7, ::ffff:127.0.0.1", "198.51.100.7"),
        ("203.0.113.9, unknown", None),
        (PROXY, PROXY),
    ],
)
async def test_a_hop_may_be_written_in_every_usual_way(server, header, client):
    assert (await ask(server.port, {"X-Forwarded-For": header}, PROXY))["client"] == client


@pytest.mark.parametrize(
    ("address", "household"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::%eth0", "2001:db8:1:2::/64"),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_an_address_stands_for_a_household(address, household):
    assert network(address) == household


def test_a_setting_that_names_no_address_is_refused_with_a_sentence(monkeypatch):
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8, 10.1.2.3/8")
    with pytest.raises(ImproperlyConfigured, match=r"TRUSTED_PROXIES: '10.1.2.3/8' .* like 192.0.2.1 or 10.0.0.0/8"):
        environment.networks("TRUSTED_PROXIES", "")
