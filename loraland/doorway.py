"""The door of programs' addresses, before anything else looks at a call: which pages of other origins may ask, and by
which id a call is spoken of.

Keys are Bearer tokens and no cookie counts, so a page of another origin can do no more than who holds the key. It may
ask where `CORS_ORIGINS` names its origin; without that a browser keeps the answer from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from uuid import uuid4

from django.conf import settings

from loraland.api.addresses import shape_for
from loraland.api.failing import ApiError
from loraland.gate import Application, Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]

METHODS: Final = b"GET, HEAD, POST, OPTIONS"
EXPOSED: Final = (
    b"retry-after, x-request-id, x-client-request-id, x-loraland-unused-messages, x-loraland-dropped-turns, "
    b"x-loraland-adapter, x-loraland-digest, x-loraland-score, x-loraland-runners-up, x-loraland-route-reason, "
    b"x-loraland-not-invoked, request-id, x-prompt-tokens, x-generated-tokens, x-total-tokens, x-queue-time, "
    b"x-adapter-id"
)
MAX_AGE: Final = b"600"
NAMES: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, -]{1,4096}")
"""Names of headers, as a browser lists those that it wants to send."""
ID: Final = re.compile(rb"[!-~]{1,200}")
ANY: Final = "*"


class Doorway:
    """An ASGI application that answers browsers' questions and marks what the one behind it answers to programs."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (shape := shape_for(scope.get("method", ""), scope["path"])):
            return await self._application(scope, receive, send)
        asked = dict(scope["headers"])
        marks = [*_ids(asked), *_allowance(asked.get(b"origin", b""))]
        marked = _marking(send, marks)
        if not (scope["method"] == "OPTIONS" and b"access-control-request-method" in asked):
            return await self._application(scope, receive, marked)
        if _is_allowed(asked.get(b"origin", b"")):
            await _answer(marked, 204, _promises(asked), b"")
        else:
            refusal = shape(_not_allowed(asked.get(b"origin", b"")), scope["path"])
            await _answer(marked, refusal.status_code, [(b"content-type", b"application/json")], refusal.content)


def _is_allowed(origin: bytes) -> bool:
    origins = settings.CORS_ORIGINS
    return bool(origin) and (ANY in origins or origin.decode("latin-1").lower() in origins)


def _allowance(origin: bytes) -> Headers:
    """What lets a page of this origin read an answer. Caches keep the answers to several origins apart."""
    vary = [(b"vary", b"Origin")] if settings.CORS_ORIGINS and ANY not in settings.CORS_ORIGINS else []
    if not _is_allowed(origin):
        return vary
    told = ANY.encode() if ANY in settings.CORS_ORIGINS else origin
    return [*vary, (b"access-control-allow-origin", told), (b"access-control-expose-headers", EXPOSED)]


def _promises(asked: dict[bytes, bytes]) -> Headers:
    """What a page may send: every header that it names, as none of them opens more than the key does."""
    names = asked.get(b"access-control-request-headers", b"")
    promised = [(b"access-control-allow-methods", METHODS), (b"access-control-max-age", MAX_AGE)]
    return [*promised, *([(b"access-control-allow-headers", names)] if NAMES.fullmatch(names) else [])]


def _not_allowed(origin: bytes) -> ApiError:
    name = origin.decode("latin-1")[:200] or "an unknown origin"
    sentence = f"Pages of {name} may not ask here; whoever runs this site can name that origin in CORS_ORIGINS."
    return ApiError(403, "origin_not_allowed", sentence)


def _ids(asked: dict[bytes, bytes]) -> Headers:
    """An id for the answer, should it have none of its own, and the caller's own id for it."""
    own = asked.get(b"x-client-request-id") or asked.get(b"x-request-id") or b""
    echoed = [(b"x-client-request-id", own)] if ID.fullmatch(own) else []
    id = b"req-" + uuid4().hex.encode()
    named = [(b"request-id", id)] if b"anthropic-version" in asked else []
    return [(b"x-request-id", id), *named, *echoed]


def _marking(send: Send, marks: Headers) -> Send:
    """`send` that adds to an answer's head those of `marks` which it does not have; what it varies by adds up."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            known = {name.lower() for name, _ in given}
            known.discard(b"vary")
            message = {**message, "headers": given + [mark for mark in marks if mark[0] not in known]}
        await send(message)

    return marked


async def _answer(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})
