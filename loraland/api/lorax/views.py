"""LoRAX's addresses for an answer: ``/`` and ``/invocations``, ``/generate`` and ``/generate_stream``."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from loraland import bases
from loraland.api.addresses import POSTED
from loraland.api.answering import answer
from loraland.api.errors import ApiError
from loraland.api.lorax.asked import GenerateRequest, OldClientsRequest
from loraland.api.lorax.bodies import Generated
from loraland.api.lorax.errors import Unanswered
from loraland.api.programs import body_of, caller, opened
from loraland.catalogue.views import catalogue


@opened("POST")
async def generate(request: HttpRequest) -> HttpResponseBase:
    """One answer as an object, whatever is said of a stream."""
    await caller(request)
    asked = body_of(request, GenerateRequest).streamed(False)
    return await _answered(request, asked, Generated(asked))


@opened("POST")
async def generate_stream(request: HttpRequest) -> HttpResponseBase:
    """One answer as a stream, whatever is said of it."""
    await caller(request)
    asked = body_of(request, GenerateRequest).streamed(True)
    return await _answered(request, asked, Generated(asked))


@opened("POST")
async def invocations(request: HttpRequest) -> HttpResponseBase:
    """A stream where one is asked for, else a list of one answer, as the Inference API had it and SageMaker has it."""
    await caller(request)
    asked = body_of(request, OldClientsRequest)
    asked = asked.streamed(asked.stream)
    return await _answered(request, asked, Generated(asked, is_list=True))


@opened("POST")
async def not_offered(request: HttpRequest) -> HttpResponseBase:
    here = f"what is served here writes text ({bases.names()})"
    sentence = f"{request.path} is for models that embed or classify; {here}. Ask /generate."
    raise ApiError(404, "not_found", sentence)


@csrf_exempt
async def root(request: HttpRequest) -> HttpResponseBase:
    """LoRAX's own address for who posts to it, and the catalogue's page for who reads it."""
    if request.method in POSTED:
        return await invocations(request)
    return await sync_to_async(catalogue)(request)


async def _answered(request: HttpRequest, asked: GenerateRequest, shape: Generated) -> HttpResponseBase:
    try:
        response = await answer(request, asked, shape)
    except ApiError as error:
        raise Unanswered(error) from error
    for name, value in shape.headers.items():
        response[name] = value
    return response
