"""Whose a session is, and whether the one behind an open socket still holds: signing out, or in, ends it everywhere.

A page alone begins none, since every look at one without a cookie would leave a row: only those who come with a
browser open a socket, whose handshake gives them the cookie.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from channels.auth import get_user
from django.conf import settings
from django.http import HttpResponse

from loraland.edge.addresses import network
from loraland.generations.limits import may_begin_session

NEWCOMER: Final = b"new"
"""What the address of a socket asks for when its page was loaded without a session."""


class TooManySessions(Exception):
    """The visitor's address has begun as many sessions as it may in an hour."""


async def begin(scope: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Give a newcomer a session; returns the headers of the handshake's answer that have the browser keep it.

    Raises `TooManySessions`: who takes no cookie, or drops it, would leave a row with every connection.
    """
    session = scope["session"]
    if session.session_key or scope["query_string"] != NEWCOMER:
        return []
    if not await may_begin_session(network((scope.get("client") or ("",))[0])):
        raise TooManySessions
    await session.acreate()
    response = HttpResponse()
    response.set_cookie(
        settings.SESSION_COOKIE_NAME,
        session.session_key,
        max_age=session.get_expiry_age(),
        domain=settings.SESSION_COOKIE_DOMAIN,
        path=settings.SESSION_COOKIE_PATH,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=settings.SESSION_COOKIE_HTTPONLY,
        samesite=settings.SESSION_COOKIE_SAMESITE,  # type: ignore[arg-type]
    )
    return [(b"set-cookie", cookie.OutputString().encode()) for cookie in response.cookies.values()]


async def is_live(scope: dict[str, Any]) -> bool:
    """Whether the session that opened the socket still stands, for the same user with the same password and rights."""
    key = scope["session"].session_key
    if not key:
        return False
    session = _session(key)
    if not await session.aexists(key):
        return False
    user = await get_user({"session": session})
    was = scope["user"]
    return bool(user.is_active or user.is_anonymous) and (user.pk, user.is_staff) == (was.pk, was.is_staff)


async def is_staff(key: str) -> bool:
    """Whether the session with this key is that of a member of the staff who may come in."""
    user = await get_user({"session": _session(key)}) if key else None
    return bool(user and user.is_active and user.is_staff)


def _session(key: str) -> Any:
    return import_module(settings.SESSION_ENGINE).SessionStore(key)
