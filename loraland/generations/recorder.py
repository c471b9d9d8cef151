"""Keeping answers: what ends on the wire is written to the database, whether or not a browser still reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from asgiref.sync import sync_to_async
from channels.db import aclose_old_connections
from django.conf import settings
from django.db import transaction
from redis.exceptions import RedisError

from inference.wire.contract import WireError
from inference.wire.protocol import Terminal
from loraland.catalogue.models import AdapterVersion
from loraland.generations import metrics
from loraland.generations.models import Generation
from loraland.generations.told import Told, told_by
from loraland.inference_client import redis, wire
from loraland.liveness import SIGN_SECONDS, sign_of

logger = logging.getLogger(__name__)

BATCH: Final = 64
BLOCK_MS: Final = 1000
PAUSE_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.2
"""A pause after each read, in which more answers end: nobody waits for a row, and many at once cost far less."""
COUNTED: Final = ("source", "base", "components", "adapter_version__adapter__slug")
"""What is read of a row: its request may be long."""
MOST_UNWRITTEN: Final = 1024
"""Past so many entries that could not be written, none are read until some can be."""


class Recorder:
    """Writes what has ended, again and again until it is written: an entry is committed only after its row is.

    Several recorders share the work, and any of them may meet an entry twice: writing is idempotent.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._unwritten: dict[str, Terminal] = {}

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
        await self._write()
        await aclose_old_connections()
        return not self._unwritten

    async def _read(self, block_ms: int) -> None:
        if len(self._unwritten) >= MOST_UNWRITTEN:
            return
        for entry, _, terminal in await wire().finished(self._name, BATCH, 1 if self._unwritten else block_ms):
            self._unwritten[entry] = terminal

    async def _write(self) -> None:
        """Write all that is in hand together; each by itself where something stands in the way of that."""
        together = dict(self._unwritten)
        if len(together) > 1 and await self._try(together):
            return
        for entry, terminal in together.items():
            await self._try({entry: terminal})

    async def _try(self, ended: Mapping[str, Terminal]) -> bool:
        """Whether these entries were written. Whatever stands in their way, they stay in hand."""
        ids = {entry: terminal.id for entry, terminal in ended.items()}
        try:
            await record(*ended.values())
            await wire().committed(ids, settings.STREAM_TTL_SECONDS)
        except Exception:
            logger.exception("Cannot record %s; trying again", ", ".join(ids.values()))
            await aclose_old_connections()  # it may be the connection
            return False
        for entry in ended:
            del self._unwritten[entry]
        return True


async def record(*ended: Terminal) -> int:
    """Write how answers and probes ended, all of them or none; how many rows that gave an outcome.

    One that has an outcome already keeps it, and one that is nobody's is passed over.
    """
    histories = await wire().histories([terminal.id for terminal in ended])
    told = [told_by(event for _, event in history) for history in histories]
    recorded = await sync_to_async(_write)(list(zip(ended, told, strict=True)))
    await metrics.count(recorded)
    return len(recorded)


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or less when it is time to stop."""
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return


def _write(ended: Sequence[tuple[Terminal, Told]]) -> list[tuple[Generation, Terminal]]:
    """The generations whose outcomes this call wrote, in one transaction; a probe's goes to its version."""
    recorded = []
    with transaction.atomic():
        generations = _generations([terminal.id for terminal, _ in ended])
        for terminal, told in ended:
            if generation := generations.get(terminal.id):
                if generation.record(terminal, told.text, told.weights):
                    recorded.append((generation, terminal))
            else:
                _prove(terminal)
    return recorded


def _generations(ids: Iterable[str]) -> dict[str, Generation]:
    """Those of these ids that this site was asked for, with what is counted of them."""
    rows = Generation.objects.filter(pk__in=[key for id in ids if (key := _key(id))])
    rows = rows.select_related("adapter_version__adapter").only(*COUNTED)
    return {row.wire_id: row for row in rows}


def _key(id: str) -> UUID | None:
    """Whoever put an id of another form on the wire did not ask this site to keep it."""
    try:
        return UUID(id)
    except ValueError:
        return None


def _prove(terminal: Terminal) -> None:
    for version in AdapterVersion.objects.filter(probe_id=terminal.id).select_related("adapter"):
        version.record_proof(terminal)
