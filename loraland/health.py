"""Whether the site is up, and whether it can answer: /healthz and /readyz."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse

from inference.streams import WireError
from loraland.edge.insiders import is_internal
from loraland.inference_client import readiness


async def alive(request: HttpRequest) -> JsonResponse:
    """200 as long as this process serves requests."""
    return JsonResponse({"status": "ok"})


async def ready(request: HttpRequest) -> JsonResponse:
    """200 when database, Redis and a worker with the base model loaded are there; else 503 and what is missing.

    How they do is told to `INTERNAL_ADDRESSES` alone: staff are known by the database, which may be what is missing.
    """
    report: dict[str, Any] = {"base": settings.BASE_NAME, "database": await sync_to_async(_database_answers)()}
    report |= await _workers()
    missing = [name for name in ("database", "redis", "worker") if not report[name]]
    status = 503 if missing else 200
    told = report if is_internal(request) else {}
    return JsonResponse({"ready": not missing, "missing": missing, **told}, status=status)


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM django_migrations")
    except DatabaseError:
        return False
    return True


async def _workers() -> dict[str, Any]:
    """What the heartbeats tell. A worker that is alive but still loads the base is counted, and not ready."""
    try:
        state = await readiness()
    except WireError:
        return {"redis": False, "worker": False, "workers": 0, "self_check": ""}
    return {
        "redis": True,
        "worker": state.is_ready,
        "workers": state.workers,
        "self_check": state.self_check,
        "context_length": state.context_length,
        "fingerprint": state.fingerprint,
    }
