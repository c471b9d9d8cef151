"""The playground's jobs on Celery: what anonymous visitors have left, once their sessions have ended."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import Final

from celery import shared_task
from django.conf import settings
from django.contrib.sessions.models import Session
from django.utils import timezone

from loraland.playground.models import Comparison, Conversation

BATCH: Final = 500
"""How many chats and comparisons one job forgets: a write lock that long is not felt."""


@shared_task  # type: ignore[untyped-decorator]
def forget_strangers() -> None:
    """Clear sessions that have expired, then what only they could have opened."""
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
    before = timezone.now() - timedelta(seconds=settings.SESSION_COOKIE_AGE)
    live = Session.objects.values("session_key")
    for kind in (Conversation, Comparison):
        left = kind.objects.filter(user=None, updated__lt=before).exclude(session_key__in=live)
        for owned in left.order_by("updated")[:BATCH]:
            owned.forget()
