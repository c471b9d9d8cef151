"""Who asks: a signed-in user, an anonymous session, or a program with a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from zlib import crc32

from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from loraland.edge.addresses import network

SESSIONS_PER_ADDRESS: Final = 4
"""How many anonymous visitors' shares one address has, of the hourly quota and of the device. A classroom shares an
address; but cookies are free."""


@dataclass(frozen=True)
class Visitor:
    """One owner of generations, which are its `tenant`'s.

    `tenant` is ``user:<id>``, ``session:<key>``, ``key:<id>``, or empty for a stranger without a session, who
    may own nothing. `ip` counts towards the quota of anonymous visitors. Staff see drafts.
    """

    user_id: int | None
    session_key: str
    tenant: str
    ip: str = ""
    is_staff: bool = False

    @property
    def is_anonymous(self) -> bool:
        return self.tenant.startswith("session:") or not self.tenant

    @cached_property
    def address(self) -> str:
        """What stands for the network address in rows and queues, where nobody should read it; empty if unknown."""
        return salted_hmac("loraland.address", self.ip).hexdigest()[:16] if self.ip else ""

    @property
    def turns(self) -> str:
        """Who waits and is served in turn with others: each tenant, but all the sessions of an address as a few."""
        if not (self.is_anonymous and self.address):
            return self.tenant
        return f"session:{self.address}.{crc32(self.session_key.encode()) % SESSIONS_PER_ADDRESS}"


def visitor_of(request_or_scope: HttpRequest | Mapping[str, Any]) -> Visitor:
    """The visitor behind a request of a synchronous view, or behind a WebSocket's scope.

    Without a session its visitor has no tenant; the socket that a page opens begins one.
    """
    if isinstance(request_or_scope, HttpRequest):
        request = request_or_scope
        return _visitor(request.user, request.session, request.META.get("REMOTE_ADDR", ""))
    client = request_or_scope.get("client") or ("",)
    return _visitor(request_or_scope["user"], request_or_scope["session"], client[0])


def _visitor(user: Any, session: Any, address: str) -> Visitor:
    key = session.session_key or ""
    if user.is_authenticated:
        return Visitor(user.pk, key, tenant_of_user(user.pk), network(address), user.is_staff)
    return Visitor(None, key, f"session:{key}" if key else "", network(address))


def tenant_of_user(user_id: int) -> str:
    """How the workers know a signed-in user."""
    return f"user:{user_id}"
