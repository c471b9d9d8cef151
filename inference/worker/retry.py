"""What a worker does while the wire is away: it tries again, and logs it once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from inference.wire.contract import WireError

RETRY_SECONDS: Final = 0.25

log = logging.getLogger(__name__)


class Retry:
    """That of the worker `name`, shared by all it does."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_cut_off = False

    async def attempt(self, duty: Callable[[], Awaitable[None]]) -> bool:
        """Do `duty`; when the wire is away, log it once, wait a little and return false."""
        try:
            await duty()
        except WireError as error:
            if not self._is_cut_off:
                log.warning("cut off worker=%s error=%s", self._name, error)
            self._is_cut_off = True
            await asyncio.sleep(RETRY_SECONDS)
            return False
        if self._is_cut_off:
            log.info("connected again worker=%s", self._name)
        self._is_cut_off = False
        return True
