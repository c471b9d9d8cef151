"""Which of Django's handlers takes a request: pages need sessions, cookies and messages, programs do not.

Django's own middleware is synchronous: each one that a request passes costs two changes of thread.
"""

from __future__ import annotations

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from loraland.gate import Application, Receive, Scope, Send

API: str = "/v1/"


class ApiHandler(ASGIHandler):
    """Django behind the middleware of `settings.API_MIDDLEWARE` alone."""

    def load_middleware(self, is_async: bool = False) -> None:
        listed, settings.MIDDLEWARE = settings.MIDDLEWARE, settings.API_MIDDLEWARE
        try:
            super().load_middleware(is_async)
        finally:
            settings.MIDDLEWARE = listed


def by_path(api: Application, pages: Application) -> Application:
    """An application that gives programs to `api` and everybody else to `pages`."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await (api if scope["path"].startswith(API) else pages)(scope, receive, send)

    return application
