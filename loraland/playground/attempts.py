"""How often a password may be tried: by address and by name, and by itself alone for a device that signed in before.

Strangers who try a name use up that name's attempts, but not those of the devices on which its owner has been in.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from loraland.edge.addresses import network

COOKIE: Final = "device"
COOKIE_SECONDS: Final = 365 * 24 * 3600


@dataclass(frozen=True)
class Limit:
    """At most `times` attempts of `subject` in each window of so many seconds, for all web processes together."""

    subject: str
    times: int
    seconds: int

    @property
    def key(self) -> str:
        return f"sign-in:{_digest(self.subject)}:{int(time.time()) // self.seconds}"

    @property
    def wait(self) -> int:
        """Seconds until its next window begins."""
        return self.seconds - int(time.time()) % self.seconds

    def count(self) -> int:
        """The attempts in this window, with one more."""
        cache.add(self.key, 0, self.seconds)
        return cache.incr(self.key)


def limits(request: HttpRequest, name: str) -> tuple[Limit, ...]:
    """What an attempt to sign in as `name` counts under, whether or not anybody is called that."""
    if device := _device(request, name):
        return (Limit(f"device {device}", 5, 300),)
    address = network(request.META.get("REMOTE_ADDR", ""))
    return Limit(f"address {address}", 10, 60), Limit(f"name {_folded(name)}", 5, 300)


def spend(counted: Iterable[Limit]) -> int:
    """Count one attempt under every limit: seconds to wait where one was used up before, else 0."""
    return max((limit.wait for limit in counted if limit.count() > limit.times), default=0)


def give_back(counted: Iterable[Limit]) -> None:
    """Take one attempt back, which was none: the password was right, or could not be looked at."""
    for limit in counted:
        with suppress(ValueError):  # its window is over
            cache.decr(limit.key)


def remember(response: HttpResponseBase, name: str) -> None:
    """Have the browser show from now on that `name` has signed in with it."""
    response.set_signed_cookie(
        COOKIE,
        f"{_digest(_folded(name))}.{secrets.token_urlsafe(16)}",
        salt=COOKIE,
        max_age=COOKIE_SECONDS,
        path="/accounts/",
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _device(request: HttpRequest, name: str) -> str:
    """The device's own token if it has signed in as `name` before, else nothing."""
    told: str = request.get_signed_cookie(COOKIE, default="", salt=COOKIE, max_age=COOKIE_SECONDS) or ""
    whose, _, token = told.partition(".")
    return token if whose == _digest(_folded(name)) else ""


def _folded(name: str) -> str:
    """`name` as databases compare names that are meant whatever their case: PostgreSQL does it in capitals."""
    return name.upper().lower()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
