"""Which pages may open a socket, and which handshakes no database could look up."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from loraland.asgi import application
from loraland.edge.origins import is_own
from tests.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)


def scope(origin: str | None, host: str = "localhost:8000", scheme: str = "ws", cookie: str = "") -> dict[str, Any]:
    headers = {b"host": host, b"origin": origin, b"cookie": cookie}
    return {
        "type": "websocket",
        "path": "/ws/answers/",
        "query_string": b"",
        "scheme": scheme,
        "headers": [(name, value.encode()) for name, value in headers.items() if value],
        "subprotocols": [],
    }


async def answer_to(handshake: dict[str, Any]) -> dict[str, Any]:
    socket = ApplicationCommunicator(application, handshake)
    await socket.send_input({"type": "websocket.connect"})
    answer = await socket.receive_output(PATIENCE)
    await socket.send_input({"type": "websocket.disconnect", "code": 1001})
    await socket.wait(PATIENCE)
    return answer


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:9",
        "http://127.0.0.1:8000",
        "https://localhost:8000",
        "ws://localhost:8000",
        "https://evil.example",
        "http://localhost:8000.evil.example",
        "file://",
        "null",
        "",
    ],
)
async def test_a_page_of_another_scheme_host_or_port_opens_no_socket(origin):
    assert (await answer_to(scope(origin)))["type"] == "websocket.close"


async def test_a_page_of_this_site_opens_a_socket(site_wire):
    assert (await answer_to(scope("http://localhost:8000")))["type"] == "websocket.accept"


def test_behind_a_proxy_that_ends_tls_the_scheme_of_the_page_counts_or_a_trusted_origin(settings):
    settings.ALLOWED_HOSTS = ["example.org"]
    assert is_own(scope("https://example.org", "example.org", "wss"))
    assert not is_own(scope("http://example.org", "example.org", "wss"))
    assert not is_own(scope("https://example.org", "example.org"))
    settings.CSRF_TRUSTED_ORIGINS = ["https://example.org", "https://*.example.net"]
    assert is_own(scope("https://example.org", "example.org"))
    assert is_own(scope("https://shop.example.net", "example.org"))
    assert not is_own(scope("https://example.net.evil.example", "example.org"))


def test_a_host_that_is_not_served_has_no_pages():
    assert not is_own(scope("http://evil.example", "evil.example"))


async def test_a_handshake_whose_session_holds_a_nul_is_declined_with_a_sentence():
    handshake = scope("http://localhost:8000", cookie='sessionid="\\000abcdefgh"')
    assert (await answer_to(handshake))["type"] == "websocket.close"
    answer = await answer_to({**handshake, "extensions": {"websocket.http.response": {}}})
    assert (answer["type"], answer["status"]) == ("websocket.http.response.start", 400)
