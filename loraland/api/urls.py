from __future__ import annotations

from typing import Final

from django.urls import URLPattern, URLResolver, path
from django.views.decorators.csrf import csrf_exempt

from loraland import health
from loraland.api import about, loading, tokenizing
from loraland.api.addresses import GENERATION, NOT_OFFERED, SMALL
from loraland.api.anthropic import views as anthropic
from loraland.api.lorax import views as lorax
from loraland.api.metrics import metrics
from loraland.api.reference.document import openapi
from loraland.api.reference.views import reference
from loraland.api.v1 import api, nothing_here

_SMALL: Final = {
    "health": about.ready,
    "ping": about.ready,
    "version": about.version,
    "info": about.info,
    "tokenize": tokenizing.tokenize,
    "detokenize": tokenizing.detokenize,
    "tokenizer_info": about.tokenizer_info,
}

_GENERATION: Final = {
    "generate": lorax.generate,
    "generate_stream": lorax.generate_stream,
    "invocations": lorax.invocations,
}

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", health.alive, name="healthz"),
    path("readyz", health.ready, name="readyz"),
    path("metrics", metrics, name="metrics"),
    *[path(f"{room}{name}", _SMALL[name]) for room in ("", "v1/") for name in SMALL],
    path("", lorax.root, name="catalogue"),
    *[path(name, _GENERATION[name]) for name in GENERATION],
    *[path(name, lorax.not_offered) for name in NOT_OFFERED],
    path("v1/load_lora_adapter", loading.load),
    path("v1/unload_lora_adapter", loading.unload),
    path("api/", reference, name="api"),
    path("v1/messages", anthropic.messages),
    path("v1/messages/count_tokens", anthropic.count_tokens),
    path("v1/openapi.json", openapi, name="openapi"),
    path("v1", csrf_exempt(nothing_here)),
    path("v1/", csrf_exempt(nothing_here)),
    path("v1/", api.urls),
    path("v1/<path:rest>", csrf_exempt(nothing_here)),
]
