"""Which of Django's handlers takes a request: pages need sessions, cookies and messages, programs do not.

Django's own middleware is synchronous: each one that a request passes costs two changes of thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import lru_cache
from itertools import cycle
from typing import Final

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.db import close_old_connections, connection
from django.http import HttpRequest
from django.urls import ResolverMatch, get_resolver, set_script_prefix

from loraland.api.addresses import shape_for
from loraland.gate import Application, Receive, Scope, Send
from loraland.lanes import Lane, keep_connection

THREADS: Final = 4
"""Threads in which the calls of programs speak with the database, in turn; half as many for those that only read."""


MOST_ADDRESSES: Final = 256
LONGEST_ADDRESS: Final = 200
"""Of which addresses it is remembered what they mean: so many, each of so many characters."""


class ApiHandler(ASGIHandler):
    """Django behind the middleware of `settings.API_MIDDLEWARE` alone.

    It tells nobody that a request begins and ends, which Django does in a thread: what would hear of it looks after
    the connections to the database, and `Lane` does so. An address is looked up once.
    """

    def load_middleware(self, is_async: bool = False) -> None:
        listed, settings.MIDDLEWARE = settings.MIDDLEWARE, settings.API_MIDDLEWARE
        try:
            super().load_middleware(is_async)
        finally:
            settings.MIDDLEWARE = listed

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, unless its caller leaves before that."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        set_script_prefix(get_script_prefix(scope))
        with closing(body):
            request, refusal = self.create_request(scope, body)
            if request is None:
                assert refusal is not None
                return await self.send_response(refusal, send)
            try:
                with closing(request):
                    await self._answer(request, receive, send)
            finally:
                await _let_connection_go()

    async def _answer(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        answering = asyncio.create_task(self._answered(request, send))
        await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, answering):
            if not task.done():
                task.cancel()
            with suppress(RequestAborted, asyncio.CancelledError):
                await task

    async def _answered(self, request: HttpRequest, send: Send) -> None:
        await self.send_response(await self.run_get_response(request), send)

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        path = request.path_info
        match = _meaning(settings.ROOT_URLCONF, path) if len(path) <= LONGEST_ADDRESS else get_resolver().resolve(path)
        request.resolver_match = match
        return match


class SharedThreads:
    """An application whose calls share a few threads and their connections.

    Django gives every call a thread, which opens a connection, reads the schema and is kept while the answer streams.
    Calls that only read have threads of their own: behind others that wait to write they would wait as well.
    """

    def __init__(self, application: Application, count: int = THREADS) -> None:
        self._application = application
        self._writing = _threads("api", count)
        self._reading = _threads("api-reading", count // 2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        threads = self._reading if scope.get("method") in ("GET", "HEAD") else self._writing
        async with ThreadSensitiveContext(executor=next(threads)):
            await self._application(scope, receive, send)


def _threads(name: str, count: int) -> Iterator[ThreadPoolExecutor]:
    return cycle([Lane(1, f"{name}-{number}", keep_connection) for number in range(count)])


async def _let_connection_go() -> None:
    """Give the calling lane's connection back to its pool; SQLite's is kept."""
    if connection.vendor != "sqlite":
        await sync_to_async(close_old_connections)()


@lru_cache(MOST_ADDRESSES)
def _meaning(urls: str, path: str) -> ResolverMatch:
    return get_resolver(urls).resolve(path)


def by_path(api: Application, pages: Application) -> Application:
    """An application that gives programs to `api` and everybody else to `pages`."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        is_program = shape_for(scope.get("method", "GET"), scope["path"]) is not None
        await (api if is_program else pages)(scope, receive, send)

    return application
