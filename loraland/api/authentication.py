"""Who calls: a program that shows its key as a Bearer token, and nothing else. Cookies are not looked at."""

from __future__ import annotations

import hmac
from typing import Final

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from ninja.security import HttpBearer

from loraland.api.last_used import notes
from loraland.api.models import PREFIX, ApiKey, hash_of
from loraland.edge.addresses import network
from loraland.generations.visitor import Visitor
from loraland.rows import Remembered

_keys: Final = Remembered(
    lambda digest: ApiKey.objects.select_related("user").filter(hash=digest),
    lambda digest: ApiKey.objects.select_related("user").filter(hash=digest).first(),
)


class KeyHolder(HttpBearer):
    """Puts the active `ApiKey` that the caller holds into ``request.auth``."""

    async def authenticate(self, request: HttpRequest, token: str) -> ApiKey | None:
        key = await active_key(token)
        if key is not None:
            notes.note(key)
        return key


async def active_key(secret: str) -> ApiKey | None:
    """The key with this secret, unless it is revoked or expired, or its owner may no longer come in."""
    if not secret.startswith(PREFIX) or not secret.isascii():
        return None
    digest = hash_of(secret)
    key = await sync_to_async(_keys.one)(digest)
    return key if key is not None and key.is_active and hmac.compare_digest(key.hash, digest) else None


def visitor_of(request: HttpRequest) -> Visitor:
    """The holder of the request's key, as an owner of answers."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    is_staff = key.user is not None and key.user.is_staff
    return Visitor(key.user_id, "", f"key:{key.pk}", network(request.META.get("REMOTE_ADDR", "")), is_staff)
