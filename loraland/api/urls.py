from __future__ import annotations

from django.urls import URLPattern, URLResolver, path
from django.views.decorators.csrf import csrf_exempt

from loraland import health
from loraland.api.metrics import metrics
from loraland.api.v1 import api, nothing_here

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", health.alive, name="healthz"),
    path("readyz", health.ready, name="readyz"),
    path("metrics", metrics, name="metrics"),
    path("v1/", api.urls),
    path("v1/<path:rest>", csrf_exempt(nothing_here)),
]
