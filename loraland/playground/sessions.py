"""Whose a session is, and whether the one behind an open socket still holds: signing out, or in, ends it everywhere."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from channels.auth import get_user
from django.conf import settings


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
