from __future__ import annotations

from typing import Final

from django.urls import URLPattern, URLResolver, path
from django.views.decorators.csrf import csrf_exempt

from loraland import health
from loraland.api import about, tokenizing
from loraland.api.addresses import SMALL
from loraland.api.metrics import metrics
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

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", health.alive, name="healthz"),
    path("readyz", health.ready, name="readyz"),
    path("metrics", metrics, name="metrics"),
    *[path(f"{room}{name}", _SMALL[name]) for room in ("", "v1/") for name in SMALL],
    path("v1/", api.urls),
    path("v1/<path:rest>", csrf_exempt(nothing_here)),
]
