"""Making the database and the wire agree again after either of them lost something."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import DatabaseError, close_old_connections
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
    for id in await sync_to_async(_overdue)(patience_seconds):
        await _settle(id)
    for version in await sync_to_async(_unproven)():
        if not version.probe_id or not await wire().exists(version.probe_id):
            await sync_to_async(_resubmit)(version)


async def _settle(id: str) -> None:
    if not await wire().exists(id):
        logger.warning("Ending %s, which the wire has lost", id)
        await wire().fail(id, Failed(id, "lost", LOST))
    history = await wire().history(id)
    if history and is_terminal(terminal := history[-1][1]):
        await record(id, terminal)  # type: ignore[arg-type]
        await wire().committed(NO_ENTRY, id, settings.STREAM_TTL_SECONDS)


def _overdue(patience_seconds: float) -> list[str]:
    close_old_connections()
    before = timezone.now() - timedelta(seconds=patience_seconds)
    rows = Generation.objects.unfinished().filter(created__lte=before)
    try:
        return [id.hex for id in rows.values_list("id", flat=True)]
    finally:
        close_old_connections()


def _unproven() -> list[AdapterVersion]:
    """The versions that wait for an examination or a proof, on the wire or lost on the way."""
    close_old_connections()
    try:
        return list(AdapterVersion.objects.awaiting_verdict())
    finally:
        close_old_connections()


def _resubmit(version: AdapterVersion) -> None:
    why = "it is time" if version.proof_due else "what was sent before has been lost"
    logger.warning("Examining %s again: %s", version, why)
    try:
        resubmit(version)
    finally:
        close_old_connections()
