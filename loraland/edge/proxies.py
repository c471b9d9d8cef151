"""Who a visitor is behind a reverse proxy: what the proxies of `TRUSTED_PROXIES` tell, and nobody else.

Only X-Forwarded-For and X-Forwarded-Proto are read. A proxy that writes the one and passes the other kind, Forwarded,
on as it came would let every visitor choose an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.conf import settings

from loraland.edge.addresses import address_of, is_among, network
from loraland.edge.crowd import Crowd
from loraland.gate import Application, Receive, Refusal, Scope, Send, refuse

SCHEMES: Final = {"http": {"http": "http", "https": "https"}, "websocket": {"http": "ws", "https": "wss"}}
CROWDED: Final = Refusal(429, "too_many_requests", "Your address asks too much of this site at once; wait a moment.")


class Proxies:
    """An application that learns the visitor's own address and scheme where a trusted proxy stands in between."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._crowd = Crowd()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_trusted(_peer(scope)):
            return await self._application(scope, receive, send)
        scope = {**scope, "client": visitor(scope), "scheme": _scheme(scope)}
        if is_trusted(_peer(scope)):  # it asks for itself
            return await self._application(scope, receive, send)
        await self._let_in(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count who came through a proxy: its connections are the proxy's, so its requests are counted instead."""
        household = network(_peer(scope))
        if not self._crowd.enter(household):
            return await refuse(scope, CROWDED, send)
        try:
            await self._application(scope, receive, send)
        finally:
            self._crowd.leave(household)


def is_trusted(address: str) -> bool:
    return is_among(address, settings.TRUSTED_PROXIES)


def visitor(scope: Scope) -> tuple[str, int] | None:
    """The nearest hop that is no trusted proxy: whoever stands behind it, its word is all that there is.

    What a visitor wrote into the header stands to the left of what the proxies added, so it is never reached.
    """
    hops = reversed(list(_entries(scope, b"x-forwarded-for")))
    for hop in hops:
        address = _without_port(hop)
        if address_of(address) is None:
            return None
        if not is_trusted(address):
            return address, 0
    client: tuple[str, int] | None = scope.get("client")
    return client


def _scheme(scope: Scope) -> str:
    """The scheme of the last hop before ours; a proxy adds to the right of what the visitor sent."""
    schemes = list(_entries(scope, b"x-forwarded-proto"))
    given: str = scope.get("scheme", "http")
    return SCHEMES[scope["type"]].get(schemes[-1].lower() if schemes else "", given)


def _entries(scope: Scope, name: bytes) -> Iterator[str]:
    """The entries of all headers called `name`, in the order in which the hops added them."""
    for header, value in scope["headers"]:
        if header == name:
            yield from (entry.strip() for entry in value.decode("latin-1").split(","))


def _without_port(hop: str) -> str:
    """``192.0.2.1`` of ``192.0.2.1:4711``, ``2001:db8::1`` of ``[2001:db8::1]:4711``."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""
