"""Programs and pages: what each passes on its way into the site."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.db import close_old_connections, connection
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from loraland.asgi import application
from loraland.handlers import LONGEST_ADDRESS, THREADS, ApiHandler, SharedThreads
from tests.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)


async def ask(path: str, host: bytes = b"localhost") -> tuple[int, dict[str, str]]:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "query_string": b"", "http_version": "1.1"}
    caller = ApplicationCommunicator(application, scope | {"headers": [(b"host", host)]})
    await caller.send_input({"type": "http.request", "body": b""})
    start = await caller.receive_output(PATIENCE)
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


async def test_a_program_gets_no_cookie_and_a_page_its_policy():
    status, headers = await ask("/v1/models")
    assert (status, "Set-Cookie" in headers, "Content-Security-Policy" in headers) == (401, False, False)
    status, headers = await ask("/")
    assert (status, "Content-Security-Policy" in headers) == (200, True)


async def test_a_program_must_name_the_right_host_and_gets_nothing_to_sniff():
    assert (await ask("/v1/models", b"evil.example"))[0] == 400
    assert (await ask("/v1/models"))[1]["X-Content-Type-Options"] == "nosniff"


async def test_calls_of_programs_share_a_few_threads_and_their_connections():
    seen = set()

    def look() -> None:
        connection.ensure_connection()
        seen.add((threading.current_thread().name, id(connection.connection)))
        close_old_connections()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await sync_to_async(look)()

    threads = SharedThreads(application)
    for _ in range(5 * THREADS):
        await threads({}, None, None)
    assert len({thread for thread, _ in seen}) == THREADS
    if connection.vendor == "sqlite":
        assert len(seen) == THREADS


async def test_a_broken_connection_is_closed_before_the_next_question():
    kept = []

    def ask_and_break() -> None:
        connection.ensure_connection()
        kept.append(connection.connection)
        connection.errors_occurred, connection.is_usable = True, lambda: False

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await sync_to_async(ask_and_break)()
        await sync_to_async(lambda: kept.append(connection.connection))()

    await SharedThreads(application, 1)({}, None, None)
    assert kept[0] is not None
    assert kept[1] is None


async def test_an_address_means_the_same_the_second_time_and_one_without_meaning_is_none():
    for _ in range(2):
        assert (await ask("/v1/models"))[0] == 401
        assert (await ask("/v1/nothing"))[0] == (await ask("/v1/" + "x" * 2 * LONGEST_ADDRESS))[0] == 404


async def test_a_caller_who_leaves_ends_what_is_done_for_it():
    begun, ended = asyncio.Event(), asyncio.Event()

    class Slow(ApiHandler):
        async def run_get_response(self, request: HttpRequest) -> HttpResponseBase:
            begun.set()
            try:
                return await asyncio.Future()
            finally:
                ended.set()

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b""}
    caller = ApplicationCommunicator(Slow(), scope | {"headers": []})
    await caller.send_input({"type": "http.request", "body": b"{}"})
    await asyncio.wait_for(begun.wait(), PATIENCE)
    await caller.send_input({"type": "http.disconnect"})
    await caller.wait(PATIENCE)
    assert ended.is_set()
