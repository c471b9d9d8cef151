"""Accepting a request: its row first, then its place in the queue."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import transaction
from redis.exceptions import RedisError

from inference.wire.contract import QueueFull, ShareTaken, WireError
from inference.wire.protocol import Failed, Generate, Message, QueueClass, Sampling, encode
from loraland import bases, database_lock
from loraland.bases import BASE, Base
from loraland.catalogue.composition import Composition, base_of
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.versions import unknown
from loraland.generations import readers
from loraland.generations.limits import check_inputs, check_size, check_stops, check_tools, clamp, spend_quota
from loraland.generations.models import Generation
from loraland.generations.visitor import Visitor
from loraland.inference_client import wire
from loraland.refusal import Refused, refused_in_an_outage
from loraland.rows import Statement, insert

__all__ = ("Refused", "start")

GREEDY: Final = Sampling()
RETRY_QUEUE_SECONDS: Final = 10
RETRY_REDIS_SECONDS: Final = 5
_UNFINISHED: Final = Statement(lambda tenant: Generation.objects.filter(tenant=tenant).unfinished().number())


async def start(
    visitor: Visitor,
    source: Generation.Source,
    version: AdapterVersion | Composition | None,
    *,
    base: Base | None = None,
    messages: Sequence[Message] | None = None,
    prompt: str | None = None,
    inputs: dict[str, str] | None = None,
    token_ids: tuple[int, ...] | None = None,
    sampling: Sampling = GREEDY,
    group: str = "",
    keep_turns: bool = False,
    is_embedding: bool = False,
    tools: str = "",
    tool_choice: str = "",
    queue_class: QueueClass = "chat",
    route: Mapping[str, Any] | None = None,
) -> Generation:
    """Accept one request of `visitor` for an answer of `version` and put it in the queue of its base; without a version
    it is for `base` alone, which is the default one unless another is given.

    `version` comes with its `adapter`, or is a sum of such. `sampling.max_tokens` is cut to the site's limit.
    Requests of one `group` ask the same; with `is_embedding` the prompt's embedding is all that is told; `route` is
    kept, which says why `version` was chosen. Raises `Refused`;
    when the queue was full or out of reach, the row stays as an answer that ended in an error.
    """
    if version is None and base and not base.is_served:
        sentence = f"The base model {base.name} does not run here; there is {bases.names()}."
        raise Refused("adapter_not_served", sentence, 409, param="model")
    asked: dict[str, Any] = {"messages": messages, "prompt": prompt, "inputs": inputs, "token_ids": token_ids}
    check(visitor, version, **asked, sampling=sampling, tools=tools, tool_choice=tool_choice)
    turns = tuple(messages) if messages is not None else None
    request = Generate(
        id=uuid4().hex,
        adapter=version.ref if version else None,
        messages=turns,
        prompt=prompt,
        inputs=inputs,
        token_ids=token_ids,
        sampling=clamp(sampling),
        tenant=visitor.turns,
        owner=visitor.tenant,
        created=time.time(),
        group=group,
        keep_turns=keep_turns,
        is_embedding=is_embedding,
        tools=tools,
        tool_choice=tool_choice,
    )
    base = base_of(version, base.called if base else BASE)
    await _spend(visitor)
    limit = _running_limit(visitor) if queue_class == "chat" else None
    with refused_in_an_outage():
        generation = await sync_to_async(_create)(visitor, source, version, base, request, limit, route)
    if visitor.is_anonymous or source == Generation.Source.API:
        await readers.expect(request.id)
    await _enqueue(generation, request, base, queue_class)
    return generation


def check(
    visitor: Visitor,
    version: AdapterVersion | Composition | None,
    *,
    messages: Sequence[Message] | None = None,
    prompt: str | None = None,
    inputs: dict[str, str] | None = None,
    token_ids: tuple[int, ...] | None = None,
    sampling: Sampling = GREEDY,
    tools: str = "",
    tool_choice: str = "",
) -> None:
    """Refuse what could never be answered, however much room there is. It is asked as `start` is."""
    if not visitor.tenant:
        raise Refused("no_session", "Your browser sent no session; allow cookies and reload the page.", 403)
    check_size(tuple(messages) if messages is not None else None, prompt, inputs, token_ids)
    check_stops(sampling)
    for asked in version.versions if isinstance(version, Composition) else [version] if version else []:
        check_seen(visitor, asked)
        check_served(asked)
    check_inputs(version, inputs, messages is not None)
    check_tools(version, tools, tool_choice)


def check_seen(visitor: Visitor, version: AdapterVersion) -> None:
    """Refuse a draft to all but staff, in the words for what is not there, should whoever asks have let it pass."""
    if version.is_draft and not visitor.is_staff:
        raise unknown(str(version))


def check_served(version: AdapterVersion) -> None:
    """Refuse a version that is not ready, or was made for another base model than those that run here."""
    if not version.adapter.is_served:
        sentence = f"{version.adapter.name} needs the base model {version.adapter.base}, which does not run here."
        raise Refused("adapter_not_served", sentence, 409, param="model")
    if not version.is_answering:
        sentence = f"{version} is {version.status} and does not answer; choose another version."
        raise Refused("adapter_not_served", sentence, 409, param="model")


def _running_limit(visitor: Visitor) -> int:
    return settings.MAX_RUNNING_PER_KEY if _is_program(visitor) else settings.MAX_RUNNING_PER_VISITOR


def _is_program(visitor: Visitor) -> bool:
    return visitor.tenant.startswith("key:")


async def _spend(visitor: Visitor) -> None:
    try:
        await spend_quota(visitor)
    except RedisError as error:
        raise _unreachable() from error


def _create(
    visitor: Visitor,
    source: Generation.Source,
    version: AdapterVersion | Composition | None,
    base: Base,
    request: Generate,
    limit: int | None,
    route: Mapping[str, Any] | None,
) -> Generation:
    with transaction.atomic():
        if limit is not None:
            _check_running(visitor, limit)
        generation = Generation(
            id=UUID(request.id),
            user_id=visitor.user_id,
            session_key="" if visitor.user_id else visitor.session_key,
            tenant=visitor.tenant,
            address="" if _is_program(visitor) else visitor.address,
            source=source,
            adapter_version=version if isinstance(version, AdapterVersion) else None,
            components=version.components if version else [],
            base=base.name,
            route=route or {},
            request=json.loads(encode(request)),
        )
        insert(generation)
        return generation


def _check_running(visitor: Visitor, limit: int) -> None:
    """Count under a lock per tenant, so that two requests at once cannot both take the last place."""
    database_lock.hold(visitor.tenant)
    running = sum(number for (number,) in _UNFINISHED.ask(visitor.tenant))
    if running >= limit:
        sentence = f"You have {running} answers in progress; wait for one to end or stop it."
        raise Refused("too_many_running", sentence, 429, retry_after=RETRY_REDIS_SECONDS)
    if visitor.address and not _is_program(visitor):
        _check_address(visitor)


def _check_address(visitor: Visitor) -> None:
    """Cookies and accounts are free, addresses are not. Strangers at an address take nothing from those signed in."""
    database_lock.hold(visitor.address)
    neighbours = Generation.objects.filter(address=visitor.address, user__isnull=visitor.is_anonymous)
    if (running := neighbours.unfinished().count()) >= settings.MAX_RUNNING_PER_ADDRESS:
        way_out = "wait for one to end, or sign in" if visitor.is_anonymous else "wait for one to end"
        sentence = f"{running} answers are in progress for your network address, the most at once; {way_out}."
        raise Refused("too_many_running", sentence, 429, retry_after=RETRY_REDIS_SECONDS)


async def _enqueue(generation: Generation, request: Generate, base: Base, queue_class: QueueClass) -> None:
    try:
        await wire().submit(request, base.key, queue_class, settings.QUEUE_LIMIT)
    except ShareTaken as error:
        sentence = f"{error.own} of your answers are waiting, your share of the queue; wait for some to begin."
        await generation.afail(Failed(request.id, "queue_full", sentence))
        raise Refused("queue_full", sentence, 429, retry_after=RETRY_QUEUE_SECONDS) from error
    except QueueFull as error:
        sentence = "Too many answers are waiting right now; try again in a moment."
        await generation.afail(Failed(request.id, "queue_full", sentence))
        raise Refused("queue_full", sentence, retry_after=RETRY_QUEUE_SECONDS) from error
    except WireError as error:
        refusal = _unreachable()
        await generation.afail(Failed(request.id, "lost", refusal.sentence))
        raise refusal from error


def _unreachable() -> Refused:
    sentence = "The answering service cannot be reached; try again in a moment."
    return Refused("unavailable", sentence, retry_after=RETRY_REDIS_SECONDS)
