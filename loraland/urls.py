"""The site's addresses."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.account.urls")),
    path("", include("loraland.api.urls")),
    path("", include("loraland.playground.urls")),
    path("", include("loraland.catalogue.urls")),
]
