"""Keeping answers: what ends on the wire is written to the database, whether or not a browser still reads."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from asgiref.sync import sync_to_async
from channels.db import aclose_old_connections
from django.conf import settings
from django.db import transaction
from redis.exceptions import RedisError

from inference.wire.contract import WireError
from inference.wire.protocol import Delta, Event, Terminal
from loraland.catalogue.models import AdapterVersion
from loraland.generations import metrics
from loraland.generations.models import Generation
from loraland.inference_client import redis, wire
from loraland.liveness import SIGN_SECONDS, sign_of

logger = logging.getLogger(__name__)

BATCH: Final = 64
BLOCK_MS: Final = 1000
PAUSE_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.2
"""A pause after each read, in which more answers end: nobody waits for a row, and many at once cost far less."""
MOST_UNWRITTEN: Final = 1024
"""Past so many entries that could not be written, none are read until some can be."""


@dataclass(frozen=True)
class Ended:
    """One entry of the wire's list of ended requests."""

    entry: str
    id: str
    terminal: Terminal


class Recorder:
    """Writes what has ended, again and again until it is written: an entry is committed only after its row is.

    Several recorders share the work, and any of them may meet an entry twice: writing is idempotent.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._unwritten: dict[str, Ended] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Record until `stopping` is set; what was read is tried once more before this returns."""
        while not stopping.is_set():
            is_well = await self.step()
            await pause(stopping, GATHER_SECONDS if is_well else PAUSE_SECONDS)

    async def step(self, block_ms: int = BLOCK_MS) -> bool:
        """Read what has ended and write it. False when something could not be read or written."""
        try:
            await self._read(block_ms)
            await redis().set(sign_of("recorder", self._name), 1, ex=SIGN_SECONDS)
        except (WireError, RedisError) as error:
            logger.warning("Cannot read what has ended; trying again: %s", error)
            return False
        for ended in list(self._unwritten.values()):
            await self._try(ended)
        await aclose_old_connections()
        return not self._unwritten

    async def _read(self, block_ms: int) -> None:
        if len(self._unwritten) >= MOST_UNWRITTEN:
            return
        for entry, _, terminal in await wire().finished(self._name, BATCH, 1 if self._unwritten else block_ms):
            self._unwritten[entry] = Ended(entry, terminal.id, terminal)

    async def _try(self, ended: Ended) -> None:
        """Write one entry. Whatever stands in its way, it stays in hand and does not hold up the others."""
        try:
            await record(ended.id, ended.terminal)
            await wire().committed(ended.entry, ended.id, settings.STREAM_TTL_SECONDS)
        except Exception:
            logger.exception("Cannot record %s; trying again", ended.id)
            await aclose_old_connections()  # it may be the connection
        else:
            del self._unwritten[ended.entry]


async def record(id: str, terminal: Terminal) -> bool:
    """Write the outcome of the answer or the probe `id`. False when it was written before, or is nobody's."""
    text = text_of(await wire().history(id))
    generation = await sync_to_async(_write)(id, terminal, text)
    if generation is not None:
        await metrics.count(generation, terminal)
    return generation is not None


def text_of(history: list[tuple[str, Event]]) -> str:
    """The whole answer that a stream holds."""
    return "".join(event.text for _, event in history if isinstance(event, Delta))


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or less when it is time to stop."""
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return


def _write(id: str, terminal: Terminal, text: str) -> Generation | None:
    """The generation whose outcome this call wrote, in one transaction; a probe's goes to its version."""
    with transaction.atomic():
        generation = _generation(id)
        if generation is not None:
            return generation if generation.record(terminal, text) else None
    for version in AdapterVersion.objects.filter(probe_id=id).select_related("adapter"):
        version.record_proof(terminal)
    return None


def _generation(id: str) -> Generation | None:
    try:
        key = UUID(id)
    except ValueError:
        return None  # whoever put it on the wire did not ask this site to keep it
    return Generation.objects.filter(pk=key).select_related("adapter_version__adapter").first()
