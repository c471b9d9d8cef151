"""The socket of a page, opened by hand: with the session of a visitor, or with one that the site begins."""

from __future__ import annotations

import websockets

from tests.bench.site import Site


async def begin_session(site: Site) -> str:
    """The cookie of a new visitor, which the site gives to the socket of a page that was loaded without one.

    Raises OSError when the site begins no session now.
    """
    async with await open_socket(site, query="?new") as socket:
        given = socket.response.headers.get("Set-Cookie") if socket.response else None
    if given is None:
        raise ConnectionError(f"{site.url} began no session")
    return given.partition(";")[0]


async def open_socket(site: Site, cookie: str = "", query: str = "") -> websockets.ClientConnection:
    address = f"{site.url.replace('http', 'ws', 1)}/ws/answers/{query}"
    return await websockets.connect(
        address,
        origin=site.url,
        additional_headers={"Cookie": cookie} if cookie else None,
        open_timeout=60,
        compression=None,
    )
