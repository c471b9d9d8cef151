"""Whether the site is up, and whether it can answer: /healthz and /readyz."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.http import HttpRequest, JsonResponse

from inference.wire.contract import WireError
from loraland.edge.insiders import is_internal
from loraland.inference_client import live_workers
from loraland.storage import probe


async def alive(request: HttpRequest) -> JsonResponse:
    """200 as long as this process serves requests."""
    return JsonResponse({"status": "ok"})


async def ready(request: HttpRequest) -> JsonResponse:
    """200 when the store, Redis and a worker with the base model loaded are there; else 503 and what is missing.

    How they do is told to `INTERNAL_ADDRESSES` alone: staff are known by the database, which may be what is missing.
    """
    report: dict[str, Any] = {"base": settings.BASE_NAME, **asdict(await probe.look())}
    report |= await _workers()
    missing = [name for name in ("database", "writes", "disk", "redis", "worker") if not report[name]]
    status = 503 if missing else 200
    told = report if is_internal(request) else {}
    return JsonResponse({"ready": not missing, "missing": missing, **told}, status=status)


async def _workers() -> dict[str, Any]:
    """What the heartbeats tell. A worker that is alive but still loads the base is counted, and not ready."""
    try:
        workers = await live_workers()
    except WireError:
        return {"redis": False, "worker": False, "workers": 0, "self_check": ""}
    ready = next((worker for worker in workers if worker.ready), None)
    return {
        "redis": True,
        "worker": ready is not None,
        "workers": len(workers),
        "self_check": ready.load.self_check if ready else "",
        "context_length": ready.load.context_length if ready else 0,
        "fingerprint": ready.fingerprint if ready else "",
    }
