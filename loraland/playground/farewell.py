"""Why the site closes a socket: the codes that a page knows, and the one for a store that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from loraland import outage

SIGNED_OUT: Final = 4401
TOO_SLOW: Final = 4408
TOO_MANY: Final = 4429
UNAVAILABLE: Final = 4503
"""Close codes. A page reconnects after any other; after these it says why, or waits. After `UNAVAILABLE` it says that
nothing can be kept and tries again more slowly."""

Application = Callable[[Any, Any, Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Farewell:
    """An application that closes its socket with `UNAVAILABLE` where an outage keeps it from even knowing the visitor.

    A browser sees the code only of a socket that was accepted.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        sent: list[str] = []

        async def tell(message: Any) -> None:
            sent.append(message["type"])
            await send(message)

        try:
            await self._application(scope, receive, tell)
        except Exception as error:
            if not outage.is_outage(error) or "websocket.close" in sent:
                raise
            outage.note(error, "opening a socket")
            if "websocket.accept" not in sent:
                await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": UNAVAILABLE})
