"""What never reaches Django, which would write it to the disk or ask the database first: bodies too large for any
page, and addresses that no database can look up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.conf import settings
from django.http import HttpResponse

from loraland.api.errors import ApiError

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

UPLOADS = "/admin/"
"""The only place that takes files."""


class Gate:
    """An ASGI application that refuses such requests with a sentence and hands every other one on."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            return await _send(
                _refusal(scope, 400, "bad_address", "The address holds a NUL; remove %00 from it."), send
            )
        body = Body(receive, max_bytes(scope["path"]))
        if not body.is_declared_larger(scope):
            await self._application(scope, body.receive, send)
        if body.is_too_large:
            sentence = f"The request has more than {body.limit // 2**20} MB, the most that is taken here; send less."
            await _send(_refusal(scope, 413, "request_too_large", sentence), send)


class Body:
    """A request's body of at most `limit` bytes. To the application one that grows past them seems to break off."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._size = 0
        self.limit = limit
        self.is_too_large = False

    def is_declared_larger(self, scope: Scope) -> bool:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        self.is_too_large = declared.isdigit() and int(declared[:20]) > self.limit
        return self.is_too_large

    async def receive(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self.is_too_large = self._size > self.limit
        return {"type": "http.disconnect"} if self.is_too_large else message


def max_bytes(path: str) -> int:
    """How large a body sent to `path` may be: files with room for the form around them, or text."""
    if path.startswith(UPLOADS):
        return (settings.MAX_UPLOAD_MB + 1) * 2**20
    return settings.DATA_UPLOAD_MAX_MEMORY_SIZE


def _refusal(scope: Scope, status: int, code: str, sentence: str) -> HttpResponse:
    if scope["path"].startswith("/v1/"):
        return ApiError(status, code, sentence).response()
    return HttpResponse(sentence, status=status, content_type="text/plain; charset=utf-8")


async def _send(response: HttpResponse, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
