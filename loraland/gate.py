"""What never reaches Django, which would write it to the disk or ask the database first: bodies too large for whoever
sends them, and addresses and cookies that no database can look up."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpResponse
from django.http.cookie import parse_cookie
from django.urls import reverse

from loraland import outage
from loraland.api import errors
from loraland.api.addresses import shape_for
from loraland.playground.sessions import is_staff

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

UPLOADS: Final = ("admin:catalogue_adapterversion_add", "admin:evals_dataset_add")
"""The only pages that take files, from staff."""
COPIES: Final = 3
"""How often an upload lies on the disk at worst: as it came, as the form's files, as what is kept of them."""
FREE_MB: Final = 256
"""What the disk keeps free beside uploads."""
HELD_MB: Final = 256
"""How much all other bodies may take together."""
MAX_QUERY: Final = 8192
"""Bytes behind the question mark of an address: SQLite searches for no text of 50,000 characters."""
CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")


@dataclass(frozen=True)
class Refusal:
    status: int
    code: str
    sentence: str


class Gate:
    """An ASGI application that refuses such requests with a sentence and hands every other one on."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._room = Room()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if refusal := unreadable(scope):
            await refuse(scope, refusal, send)
        elif scope["type"] == "websocket":
            await self._application(scope, receive, send)
        else:
            await self._take(scope, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            limit = await max_bytes(scope)
        except DatabaseError as error:
            if not outage.is_outage(error):
                raise
            return await refuse(scope, ABSENT, send)
        with self._room.body(scope, receive, limit) as body:
            if body.refusal is None:
                await self._application(scope, body.receive, send)
            if body.refusal is not None:
                await refuse(scope, body.refusal, send)


class Body:
    """A request's body of at most `limit` bytes. To the application one that is refused seems to break off."""

    def __init__(self, room: Room, receive: Receive, limit: int) -> None:
        self._room, self._receive = room, receive
        self.limit = limit
        self.is_upload = limit > settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        self.size = 0
        self.refusal: Refusal | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        self.size += size
        if not self.is_upload:
            self._room.held += size
        if self.size > self.limit:
            self.refusal = too_large(self.limit)
        elif not self.is_upload and self._room.held > HELD_MB * 2**20:
            self.refusal = BUSY
        return {"type": "http.disconnect"} if self.refusal else message


class Room:
    """What all bodies but uploads hold just now, and what is promised to uploads on the disk."""

    def __init__(self) -> None:
        self.held = 0
        self._promised = 0

    @contextmanager
    def body(self, scope: Scope, receive: Receive, limit: int) -> Iterator[Body]:
        """A body that `scope` announces. It comes refused if it says that it is too large, or if the disk is full."""
        body, declared = Body(self, receive, limit), _declared(scope)
        promise = 0
        if declared is not None and declared > limit:
            body.refusal = too_large(limit)
        elif body.is_upload:
            promise = limit if declared is None else declared
            if not self._is_on_disk(promise):
                body.refusal = FULL
        self._promised += promise
        try:
            yield body
        finally:
            self._promised -= promise
            self.held -= 0 if body.is_upload else body.size

    def _is_on_disk(self, size: int) -> bool:
        """Whether the disk has room for one more upload of `size` bytes beside those that are coming in."""
        free = shutil.disk_usage(settings.FILE_UPLOAD_TEMP_DIR or tempfile.gettempdir()).free
        return free - COPIES * (self._promised + size) > FREE_MB * 2**20


BUSY: Final = Refusal(503, "busy", "Too much is being sent to this site at once; send it again in a moment.")
FULL: Final = Refusal(503, "disk_full", "The disk has no room for this upload; free some, then send it again.")
ABSENT: Final = Refusal(503, "unavailable", "Who you are cannot be looked up just now; send it again in a moment.")


async def max_bytes(scope: Scope) -> int:
    """How large the body of a request may be: files with room for the form around them, or text.

    Files are taken from staff alone, so whoever sends more than a text is looked up before anything is read.
    """
    text: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    declared = _declared(scope)
    if scope.get("method") != "POST" or (declared is not None and declared <= text):
        return text
    if scope["path"] not in map(reverse, UPLOADS) or not await is_staff(next(iter(_sessions(scope)), "")):
        return text
    return (settings.MAX_UPLOAD_MB + 1) * 2**20


def too_large(limit: int) -> Refusal:
    sentence = f"The request has more than {limit // 2**20} MB, the most that is taken here from you; send less."
    return Refusal(413, "request_too_large", sentence)


def unreadable(scope: Scope) -> Refusal | None:
    """Why no page can look up what the request names, if so. A cookie may write a NUL in digits: ``"\\000"``."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        return Refusal(400, "bad_address", "The address holds a NUL; remove %00 from it.")
    if len(scope["query_string"]) > MAX_QUERY:
        sentence = f"The address has more than {MAX_QUERY} bytes behind its question mark; search for less."
        return Refusal(414, "address_too_long", sentence)
    if any(map(CONTROL.search, _sessions(scope))):
        return Refusal(400, "bad_cookie", "The session's cookie holds a control character; delete this site's cookies.")
    return None


def _declared(scope: Scope) -> int | None:
    """The length that the request's headers tell; none where it comes in chunks of any length."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    length = headers.get(b"content-length", b"")
    return int(length[:20]) if length.isdigit() else None


def _sessions(scope: Scope) -> list[str]:
    """The keys of sessions in the request's cookies: of several headers pages read all, and sockets the last."""
    told = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
    cookies = map(parse_cookie, dict.fromkeys((",".join(told), *told)))
    return [cookie[settings.SESSION_COOKIE_NAME] for cookie in cookies if settings.SESSION_COOKIE_NAME in cookie]


async def refuse(scope: Scope, refusal: Refusal, send: Send) -> None:
    """Answer with the sentence; a handshake is declined the same way where the server can do so."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        return await send({"type": "websocket.close", "code": 4400})
    prefix = "websocket." if scope["type"] == "websocket" else ""
    response = _response(scope, refusal)
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    await send({"type": f"{prefix}http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": response.content})


def _response(scope: Scope, refusal: Refusal) -> HttpResponse:
    retry_after = 10 if refusal.status == 503 else None
    if shape := shape_for(scope.get("method", ""), scope["path"]):
        error = errors.ApiError(refusal.status, refusal.code, refusal.sentence, retry_after=retry_after)
        told = shape(error, scope["path"])
        told.status_code = refusal.status
        return told
    response = HttpResponse(refusal.sentence, status=refusal.status, content_type="text/plain; charset=utf-8")
    if retry_after is not None:
        response["Retry-After"] = str(retry_after)
    return response
