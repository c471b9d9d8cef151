"""Programs and pages: what each passes on its way into the site."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from loraland.asgi import application

pytestmark = pytest.mark.django_db(transaction=True)


async def ask(path: str, host: bytes = b"localhost") -> tuple[int, dict[str, str]]:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "query_string": b"", "http_version": "1.1"}
    caller = ApplicationCommunicator(application, scope | {"headers": [(b"host", host)]})
    await caller.send_input({"type": "http.request", "body": b""})
    start = await caller.receive_output(10)
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


async def test_a_program_gets_no_cookie_and_a_page_its_policy():
    status, headers = await ask("/v1/models")
    assert (status, "Set-Cookie" in headers, "Content-Security-Policy" in headers) == (401, False, False)
    status, headers = await ask("/")
    assert (status, "Content-Security-Policy" in headers) == (200, True)


async def test_a_program_must_name_the_right_host_and_gets_nothing_to_sniff():
    assert (await ask("/v1/models", b"evil.example"))[0] == 400
    assert (await ask("/v1/models"))[1]["X-Content-Type-Options"] == "nosniff"
