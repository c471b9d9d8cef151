"""What servers of language models tell of themselves to whoever asks: whether they answer, and with what."""

from __future__ import annotations

import asyncio
from importlib.metadata import version as version_of
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse

from loraland import bases, health
from loraland.api.entries import meant
from loraland.api.errors import ApiError
from loraland.api.openai.common import MAX_STOPS
from loraland.api.programs import SAFE, caller_if_any, opened
from loraland.base_files import base_tokenizer
from loraland.bases import Base
from loraland.catalogue.composition import base_of
from loraland.inference_client import context_length, ready_worker

DTYPES: Final = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp32": "torch.float32"}


@opened(*SAFE)
async def ready(request: HttpRequest) -> HttpResponse:
    """``/health`` and ``/ping``: 200 when the site could answer now, else 503 and what is missing."""
    return await health.ready(request)


@opened(*SAFE)
async def version(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"version": version_of("loraland")})


@opened(*SAFE)
async def info(request: HttpRequest) -> HttpResponse:
    """``/info`` as LoRAX and TGI tell it, as far as the same is counted here; ``?model=`` says of which base."""
    base = await _base_asked(request)
    worker = await ready_worker(base)
    dtype, device = _computed_with(worker.fingerprint if worker else "")
    context = worker.load.context_length if worker else 0
    return JsonResponse(
        {
            "model_id": base.name,
            "model_sha": None,
            "model_dtype": dtype,
            "model_device_type": device,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": settings.MAX_RUNNING_PER_KEY,
            "max_stop_sequences": MAX_STOPS,
            "max_input_length": max(context - 1, 0),
            "max_input_tokens": max(context - 1, 0),
            "max_total_tokens": context,
            "max_new_tokens": settings.MAX_NEW_TOKENS,
            "version": version_of("loraland"),
            "sha": None,
            "docker_label": None,
            "router": "loraland",
        }
    )


@opened(*SAFE)
async def tokenizer_info(request: HttpRequest) -> HttpResponse:
    """``/tokenizer_info`` as vLLM tells it: what a client needs to write the prompts of a base itself, the one of
    ``?model=``."""
    base = await _base_asked(request)
    tokenizer = await asyncio.to_thread(base_tokenizer, base)
    names: dict[str, Any] = {name: token or None for name, token in tokenizer.names.items()}
    context = await context_length(base)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context or None}
    return JsonResponse(about | names | {"chat_template": tokenizer.template_source})


async def _base_asked(request: HttpRequest) -> Base:
    """The base that answers for the ``model`` of the address; the default one where it has none."""
    names = request.GET.getlist("model")
    if len(names) > 1:
        raise ApiError(400, "invalid_value", f"The address has {len(names)} models; give one, or none.", "model")
    if not names:
        return bases.default()
    return base_of(await meant(names[0], await caller_if_any(request)), names[0])


def _computed_with(fingerprint: str) -> tuple[str, str]:
    """The type of numbers and the kind of device in a worker's fingerprint, such as ``3/bf16/none/cpu-amx/ab``."""
    parts = fingerprint.split("/")
    if len(parts) < 4:
        return "unknown", "unknown"
    return DTYPES.get(parts[1], parts[1]), parts[3].partition("-")[0]
