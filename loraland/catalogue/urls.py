"""The catalogue's addresses."""

from __future__ import annotations

from django.urls import path

from loraland.catalogue import views

urlpatterns = [
    path("", views.catalogue, name="catalogue"),
    path("adapters/<slug:slug>/", views.adapter, name="adapter"),
    path("workers/", views.workers, name="workers"),
    path("workers/lamp/", views.lamp, name="lamp"),
]
