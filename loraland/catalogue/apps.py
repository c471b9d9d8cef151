from __future__ import annotations

from django.apps import AppConfig


class CatalogueConfig(AppConfig):
    name = "loraland.catalogue"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from loraland.catalogue import embeddings
        from loraland.catalogue.models import Adapter, AdapterVersion

        embeddings.watch(Adapter, AdapterVersion)
