"""Ending what nobody reads any more, so that no answer is computed for nobody."""

from __future__ import annotations

import time
from typing import Final
from uuid import UUID

from django.conf import settings

from inference.wire.failures import FailureCode
from loraland.generations import readers
from loraland.generations.models import Generation
from loraland.generations.stop import stop

CODE: Final[FailureCode] = "unread"
"""The error code of an answer that was stopped because nobody read it."""


class Abandoned:
    """Stops them now and then. It is patient at first, and again after each failure, while readers show themselves."""

    def __init__(self) -> None:
        self.be_patient()

    def be_patient(self) -> None:
        """End nothing for as long as an answer may be without a reader."""
        self._from = time.monotonic() + settings.UNREAD_SECONDS

    async def end(self) -> None:
        """Raises `redis.RedisError` and `inference.wire.contract.WireError`."""
        if time.monotonic() >= self._from:
            await end_unread()


async def end_unread() -> None:
    """Stop every answer that has had no reader for too long; its row says so beside what there is of its text.

    One whose visitor has signed in since is that user's own, and kept.
    """
    while ids := await readers.unread():
        running = Generation.objects.filter(pk__in=[UUID(id) for id in ids]).unfinished()
        async for generation in running.exclude(tenant__startswith="user:"):
            await Generation.objects.filter(pk=generation.pk).unfinished().aupdate(error_code=CODE, error=_sentence())
            await stop(generation)
        await readers.forget(ids)


def _sentence() -> str:
    return f"Nobody was reading this answer for {settings.UNREAD_SECONDS} seconds, so it was stopped. Ask again for it."
