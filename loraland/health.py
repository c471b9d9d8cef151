"""Whether the site is up, and whether it can answer: /healthz and /readyz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.http import HttpRequest, JsonResponse

from inference.wire.contract import WireError
from inference.wire.protocol import Heartbeat
from loraland import bases
from loraland.edge.insiders import is_internal
from loraland.inference_client import workers_of
from loraland.storage import probe


async def alive(request: HttpRequest) -> JsonResponse:
    """200 as long as this process serves requests."""
    return JsonResponse({"status": "ok"})


async def ready(request: HttpRequest) -> JsonResponse:
    """200 when the store, Redis and a worker with its base model loaded are there; else 503 and what is missing.

    Of several bases one suffices: a proxy that turned all away would let the others' fault be everybody's.
    How they do is told to `INTERNAL_ADDRESSES` alone: staff are known by the database, which may be what is missing.
    """
    report: dict[str, Any] = {"base": bases.default().name, **asdict(await probe.look())}
    report |= await _workers()
    missing = [name for name in ("database", "writes", "disk", "redis", "worker") if not report[name]]
    status = 503 if missing else 200
    told = report if is_internal(request) else {}
    return JsonResponse({"ready": not missing, "missing": missing, **told}, status=status)


async def _workers() -> dict[str, Any]:
    """What the heartbeats tell: of the default base, of each, and whether any answers."""
    try:
        each = [{"base": base.name} | _told(await workers_of(base)) for base in bases.served()]
    except WireError:
        return {"redis": False, "worker": False, "workers": 0, "self_check": "", "bases": []}
    return {"redis": True, **each[0], "worker": any(told["worker"] for told in each), "bases": each}


def _told(workers: Sequence[Heartbeat]) -> dict[str, Any]:
    """What those of one base tell. A worker that is alive but still loads it is counted, and not ready."""
    ready = next((worker for worker in workers if worker.ready), None)
    return {
        "worker": ready is not None,
        "workers": len(workers),
        "self_check": ready.load.self_check if ready else "",
        "context_length": ready.load.context_length if ready else 0,
        "fingerprint": ready.fingerprint if ready else "",
    }
