"""Which pages may open a socket: those of this site alone, by scheme, host and port."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from channels.security.websocket import WebsocketDenier
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.middleware.csrf import CsrfViewMiddleware

from loraland.gate import Application, Receive, Scope, Send

SCHEMES: Final = {"ws": "http", "wss": "https"}


class SameOrigin:
    """An application whose sockets are opened by pages that may also send its forms: Django's rule for both."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._application if is_own(scope) else WebsocketDenier())(scope, receive, send)


def is_own(scope: Scope) -> bool:
    """Whether the handshake's Origin is the address that it asks, or one of `CSRF_TRUSTED_ORIGINS`."""
    scheme = SCHEMES[scope.get("scheme", "ws")]
    request = ASGIRequest({**scope, "method": "GET", "scheme": scheme}, BytesIO())
    try:
        request.get_host()
    except DisallowedHost:
        return False
    rule = CsrfViewMiddleware(lambda _: HttpResponse())
    return "HTTP_ORIGIN" in request.META and rule._origin_verified(request)  # type: ignore[attr-defined]
