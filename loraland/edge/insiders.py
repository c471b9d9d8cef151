"""Who may see how the site is doing inside: staff, and the addresses of `INTERNAL_ADDRESSES`."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest

from loraland.edge.addresses import is_among

REFUSAL = "This is for staff, and for the addresses that INTERNAL_ADDRESSES names. Sign in as a member of the staff."


def is_internal(request: HttpRequest) -> bool:
    """Whether the request comes from an address that a setting names; asks no database."""
    return is_among(request.META.get("REMOTE_ADDR", ""), settings.INTERNAL_ADDRESSES)


def is_insider(request: HttpRequest) -> bool:
    return is_internal(request) or _is_staff(request.user)


async def ais_insider(request: HttpRequest) -> bool:
    """`is_insider` for views on the event loop."""
    return is_internal(request) or _is_staff(await request.auser())


def _is_staff(user: object) -> bool:
    return bool(getattr(user, "is_active", False) and getattr(user, "is_staff", False))
