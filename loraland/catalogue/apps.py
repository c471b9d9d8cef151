from __future__ import annotations

from django.apps import AppConfig


class CatalogueConfig(AppConfig):
    name = "loraland.catalogue"
    default_auto_field = "django.db.models.BigAutoField"
