"""``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter`` as vLLM has them, for keys that may load adapters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import pydantic
from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpRequest, HttpResponse

from inference.wire.contract import WireError
from inference.wire.protocol import Terminal, is_terminal
from loraland.api.errors import ApiError
from loraland.api.models import ApiKey
from loraland.api.programs import body_of, caller, opened
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.status import PENDING, VersionStatus
from loraland.catalogue.upload import replacement
from loraland.generations.waiting import digests_waited_for
from loraland.inference_client import wire
from loraland.lanes import Lane, keep_connection

if TYPE_CHECKING:
    from django.contrib.auth.models import User

Given = ParamSpec("Given")
Made = TypeVar("Made")

MOST_SECONDS: Final = 60.0
"""How long a call waits for a worker to prove what it loads."""
FIRST_PAUSE: Final = 0.05
"""How long it waits for a proof before it looks on the wire, and twice as long before each next look."""
LONGEST_PAUSE: Final = 0.4
"""From there on it looks into the database too, where another proof may have been asked for."""
_LOADING: Final = Lane(4, "loading", keep_connection)


class Load(pydantic.BaseModel):
    """What vLLM takes; `base_model_name` and what else it has is of no matter here, for files tell their base."""

    lora_name: str = pydantic.Field(min_length=1)
    lora_path: str = pydantic.Field(min_length=1)
    load_inplace: bool = False


class Unload(pydantic.BaseModel):
    lora_name: str = pydantic.Field(min_length=1)


@opened("POST")
async def load(request: HttpRequest) -> HttpResponse:
    """Load an adapter, or with ``load_inplace`` a new version of one; answered once requests are answered with it."""
    user = await _loader(request)
    asked = body_of(request, Load)
    version = await _aside(replacement.load, asked.lora_name, asked.lora_path, user, in_place=asked.load_inplace)
    await _published(version)
    return _success(f"LoRA adapter '{asked.lora_name}' added successfully.")


@opened("POST")
async def unload(request: HttpRequest) -> HttpResponse:
    """Withdraw an adapter; answers under way are finished."""
    user = await _loader(request)
    asked = body_of(request, Unload)
    await _aside(replacement.unload, asked.lora_name, user)
    return _success(f"LoRA adapter '{asked.lora_name}' removed successfully.")


async def _loader(request: HttpRequest) -> User:
    """The owner of the caller's key, which may load adapters. Raises `ApiError`."""
    await caller(request)
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    if key.may_load and key.user is not None:
        return key.user
    sentence = (
        "This key may not load adapters: make one for a user with 'manage.py create_api_key NAME --user NAME "
        "--may-load', or tick “may load adapters” in the admin. An adapter can also be imported with "
        "'manage.py import_adapter', or uploaded in the admin."
    )
    raise ApiError(403, "not_allowed", sentence)


async def _aside(work: Callable[Given, Made], *given: Given.args, **more: Given.kwargs) -> Made:
    """What `work` makes, in a thread beside that one in which every call's rows are written."""
    called = sync_to_async(_connected, thread_sensitive=False, executor=_LOADING)
    return await called(partial(work, *given, **more))


def _connected(work: Callable[[], Made]) -> Made:
    try:
        return work()
    finally:
        if connection.vendor != "sqlite":
            connection.close()


async def _published(version: AdapterVersion) -> None:
    """Wait until `version` answers. Raises `ApiError` with what speaks against it."""
    until, pause, adapter = time.monotonic() + MOST_SECONDS, FIRST_PAUSE, version.adapter
    if version.status not in PENDING:
        await _aside(replacement.let_go_of_replaced, adapter, digests_waited_for)
    while version.status in PENDING and time.monotonic() < until:
        await asyncio.sleep(pause)
        proof = await _proof(version.probe_id)
        if proof or pause == LONGEST_PAUSE:
            await _aside(_settle, version, adapter, proof)
        pause = min(2 * pause, LONGEST_PAUSE)
    if version.status == VersionStatus.REJECTED:
        raise ApiError(422, "adapter_refused", " ".join(version.reasons), "lora_path")
    if version.status == VersionStatus.LISTED:
        raise ApiError(422, "adapter_not_served", version.adapter.unserved_reason, "lora_path")
    if version.status in PENDING:
        sentence = f"No worker has proven {version} within {MOST_SECONDS:g} s; it answers once one has. Ask again then."
        raise ApiError(503, "unavailable", sentence, retry_after=5)


async def _proof(probe_id: str) -> Terminal | None:
    """How a proof ended; None where it has not, or nobody can tell."""
    with suppress(WireError):
        history = await wire().history(probe_id) if probe_id else []
        return next((event for _, event in history if is_terminal(event)), None)
    return None


def _settle(version: AdapterVersion, adapter: Adapter, proof: Terminal | None) -> None:
    """Record a `proof`, unless the recorder came first; see what became of `version`, and let what it replaced go."""
    if proof:
        version.record_proof(proof)
    version.refresh_from_db(fields=["status", "reasons", "probe_id"])
    version.adapter = adapter
    if version.status == VersionStatus.PUBLISHED:
        replacement.let_go_of_replaced(adapter, digests_waited_for)


def _success(sentence: str) -> HttpResponse:
    return HttpResponse(f"Success: {sentence}", content_type="text/plain; charset=utf-8")
