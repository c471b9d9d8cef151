from __future__ import annotations

from django.apps import AppConfig


class EvalsConfig(AppConfig):
    name = "loraland.evals"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from loraland.evals import standings

        standings.watch()
