"""The open connections of a web process: how many there may be, and a round that ends those that do not get on."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from django.conf import settings
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from loraland.edge.addresses import is_among, network
from loraland.edge.crowd import Crowd, places
from loraland.edge.proxies import is_trusted

ROUND_SECONDS: Final = 5.0
"""How often every connection is looked at."""
PATIENCE: Final = 5
"""Rounds without getting on after which a connection is ended."""

SPARE: Final = 32
"""Places beyond the last one for `INTERNAL_ADDRESSES`: a health check finds one in the worst of crowds."""

CROWDED: Final = (503, "There are too many connections to this site just now; try again in a moment.")
CROWDED_ADDRESS: Final = (429, "Your address has too many connections to this site; close some.")


class Connection(Protocol):
    def look(self) -> None:
        """End the connection if it has not got on for `PATIENCE` rounds."""


class Writing:
    """Whether the other end takes what is written: judged in rounds by what waits in this process."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._waiting = 0
        self._rounds = 0

    def went_on(self) -> None:
        self._rounds = 0

    def is_stuck(self) -> bool:
        """Count one more round, and say whether as much as before has waited for all of them."""
        waiting = self._transport.get_write_buffer_size()
        self._rounds = self._rounds + 1 if waiting and waiting >= self._waiting else 0
        self._waiting = waiting
        return self._rounds >= PATIENCE


class Connections:
    """Those of one server, each under its transport: a socket takes over that of the request that it began as."""

    def __init__(self) -> None:
        self._open: dict[asyncio.BaseTransport, tuple[Connection, str]] = {}
        self._crowd = Crowd()
        self._places = places()
        self._round: asyncio.TimerHandle | None = None

    def enter(self, transport: asyncio.Transport, connection: Connection) -> tuple[int, str] | None:
        """Take the connection in, or say with which status and sentence it is turned away.

        Proxies bring many visitors, who are counted where they are known: see `Proxies`.
        """
        peer = get_remote_addr(transport)
        address = peer[0] if peer else ""
        spare = SPARE if is_among(address, settings.INTERNAL_ADDRESSES) else 0
        if len(self._open) >= self._places + spare:
            return CROWDED
        household = "" if is_trusted(address) else network(address)
        if household and not self._crowd.enter(household):
            return CROWDED_ADDRESS
        self._open[transport] = connection, household
        self._wait()
        return None

    def take_over(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._open[transport] = connection, self._open[transport][1]

    def leave(self, transport: asyncio.Transport) -> None:
        _, household = self._open.pop(transport, (None, ""))
        if household:
            self._crowd.leave(household)

    def look(self) -> None:
        """One round."""
        self._round = None
        for connection, _ in list(self._open.values()):
            connection.look()
        self._wait()

    def _wait(self) -> None:
        if self._open and self._round is None:
            self._round = asyncio.get_running_loop().call_later(ROUND_SECONDS, self.look)


_all: WeakKeyDictionary[ServerState, Connections] = WeakKeyDictionary()


def connections_of(server: ServerState) -> Connections:
    if server not in _all:
        _all[server] = Connections()
    return _all[server]
