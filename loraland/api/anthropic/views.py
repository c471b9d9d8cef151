"""Anthropic's addresses: ``/v1/messages``, and what a conversation counts."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from ninja.errors import AuthenticationError

from inference.engine.prompt import PromptError, build_prompt
from inference.wire.protocol import Generate
from loraland.api.answering import answer, told_of
from loraland.api.anthropic.asked import Counted, MessageRequest
from loraland.api.anthropic.bodies import Messages
from loraland.api.anthropic.errors import identified
from loraland.api.authentication import active_key, visitor_of
from loraland.api.auto import addressed
from loraland.api.errors import ApiError
from loraland.api.last_used import notes
from loraland.api.programs import body_of, caller, opened
from loraland.api.tokenizing import UNLIMITED
from loraland.catalogue.composition import base_of, tokenizer_for
from loraland.generations.filling import filled
from loraland.generations.limits import check_inputs, check_tools
from loraland.generations.visitor import Visitor


@opened("POST")
async def messages(request: HttpRequest) -> HttpResponseBase:
    await _caller(request)
    asked = body_of(request, MessageRequest)
    response = await answer(request, asked, Messages(asked))
    return identified(response, response["X-Request-Id"])


@opened("POST")
async def count_tokens(request: HttpRequest) -> HttpResponseBase:
    visitor = await _caller(request)
    asked = body_of(request, Counted)
    to = await addressed(asked, visitor)
    version, sampling = to.version, asked.sampling()
    found = filled(version, to.source or asked.sources()[0])
    source = dict(found.source)
    turns = tuple(source.pop("messages", ()))
    check_inputs(version, source.get("inputs"), bool(turns))
    check_tools(version, source.get("tools", ""), source.get("tool_choice", ""))
    wanted = Generate("", version.ref if version else None, messages=turns or None, sampling=sampling, **source)
    base = base_of(version, to.name)
    try:
        prompt = await asyncio.to_thread(lambda: build_prompt(wanted, tokenizer_for(version, base), UNLIMITED))
    except PromptError as error:
        raise ApiError(400, error.code, str(error), "messages" if turns else "inputs") from error
    told = {"loraland": about} if (about := told_of(asked, found.unused) | to.told) else {}
    return identified(JsonResponse({"input_tokens": len(prompt.token_ids)} | told), uuid4().hex)


async def _caller(request: HttpRequest) -> Visitor:
    """Whose key it is, shown as Anthropic's clients do, old and new: as ``x-api-key`` or as a Bearer token."""
    secret = request.headers.get("x-api-key")
    if secret is None or "Authorization" in request.headers:
        return await caller(request)
    key = await active_key(secret)
    if key is None:
        raise AuthenticationError
    notes.note(key)
    request.auth = key  # type: ignore[attr-defined]
    return visitor_of(request)
