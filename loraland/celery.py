"""The Celery application: jobs on the site's side. Never tokens, never torch."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")

app = Celery("loraland")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
