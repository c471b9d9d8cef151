"""Making the database and the wire agree again after either of them lost something."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from asgiref.sync import sync_to_async
from channels.db import aclose_old_connections
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from inference.wire.contract import WireError
from inference.wire.protocol import Failed, is_terminal
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.tasks import resubmit
from loraland.generations.abandoned import Abandoned
from loraland.generations.models import Generation
from loraland.generations.recorder import pause, record
from loraland.inference_client import wire

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 30
"""How old a row without an outcome must be before its absence from the wire means that it was lost."""

NO_ENTRY: Final = "0-0"
"""Names no entry of the finished ones: committing it only lets the answer's stream expire."""

LOST: Final = "This request was lost on its way to a worker. Send it again."


async def run(stopping: asyncio.Event) -> None:
    """Reconcile every `EVERY_SECONDS` until `stopping` is set, and end what nobody reads."""
    abandoned = Abandoned()
    while not stopping.is_set():
        try:
            await reconcile()
            await abandoned.end()
        except (WireError, RedisError, DatabaseError, OperationalError, OSError) as error:
            logger.warning("Cannot reconcile now; trying again: %s", error)
            abandoned.be_patient()
        await pause(stopping, EVERY_SECONDS)


async def reconcile(patience_seconds: float = PATIENCE_SECONDS) -> None:
    """End rows that the wire does not know, record ends that the database missed, examine adapters again."""
    overdue = Generation.objects.unfinished().filter(created__lte=timezone.now() - timedelta(seconds=patience_seconds))
    await aclose_old_connections()
    try:
        for id in [id.hex async for id in overdue.values_list("id", flat=True)]:
            await _settle(id)
        for version in [version async for version in AdapterVersion.objects.awaiting_proof()]:
            if not version.probe_id or not await wire().exists(version.probe_id):
                why = "it is time" if version.proof_due else "what was sent before has been lost"
                logger.warning("Examining %s again: %s", version, why)
                await sync_to_async(resubmit)(version)
    finally:
        await aclose_old_connections()


async def _settle(id: str) -> None:
    if not await wire().exists(id):
        logger.warning("Ending %s, which the wire has lost", id)
        await wire().fail(id, Failed(id, "lost", LOST))
    history = await wire().history(id)
    if history and is_terminal(terminal := history[-1][1]):
        await record(terminal)
        await wire().committed({NO_ENTRY: id}, settings.STREAM_TTL_SECONDS)
