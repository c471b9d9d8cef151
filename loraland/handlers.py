"""Which of Django's handlers takes a request: pages need sessions, cookies and messages, programs do not.

Django's own middleware is synchronous: each one that a request passes costs two changes of thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Final

from asgiref.sync import ThreadSensitiveContext
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.db import connection

from loraland.api.addresses import shape_for
from loraland.gate import Application, Receive, Scope, Send

THREADS: Final = 4
"""Threads in which the calls of programs speak with the database, in turn; half as many for those that only read."""


class ApiHandler(ASGIHandler):
    """Django behind the middleware of `settings.API_MIDDLEWARE` alone."""

    def load_middleware(self, is_async: bool = False) -> None:
        listed, settings.MIDDLEWARE = settings.MIDDLEWARE, settings.API_MIDDLEWARE
        try:
            super().load_middleware(is_async)
        finally:
            settings.MIDDLEWARE = listed


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
    return cycle([ThreadPoolExecutor(1, f"{name}-{number}", _keep_connection) for number in range(count)])


def _keep_connection() -> None:
    """Have this thread's connection outlive the calls; those of PostgreSQL go back to their pool."""
    if connection.vendor == "sqlite":
        connection.settings_dict = {**connection.settings_dict, "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": False}


def by_path(api: Application, pages: Application) -> Application:
    """An application that gives programs to `api` and everybody else to `pages`."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        is_program = shape_for(scope.get("method", "GET"), scope["path"]) is not None
        await (api if is_program else pages)(scope, receive, send)

    return application
