"""What is left of visitors who will not come back, and what is not touched."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone

from loraland.celery import app
from loraland.generations.models import Generation
from loraland.playground import tasks
from loraland.playground.models import Answer, Column, Comparison, Conversation, Turn

pytestmark = pytest.mark.django_db

LONG_AGO = timezone.now() - timedelta(days=100)


def leave(key: str, user: User | None = None) -> None:
    """A chat and a comparison of a session, or of a user, as they were a long time ago."""
    facts = {"session_key": key, "tenant": f"session:{key}", "base": "b", "request": {}, "status": "done"}
    chat, comparison = (kind.objects.create(session_key=key, user=user) for kind in (Conversation, Comparison))
    told, compared = (Generation.objects.create(source=source, **facts) for source in ("chat", "compare"))
    Answer.objects.create(turn=Turn.objects.create(conversation=chat, text="Hello"), generation=told)
    Column.objects.create(comparison=comparison, position=0, generation=compared)
    for kind in (Conversation, Comparison):
        kind.objects.filter(session_key=key).update(updated=LONG_AGO)


def begin(key: str, days: int) -> None:
    Session.objects.create(session_key=key, session_data="", expire_date=timezone.now() + timedelta(days=days))


def test_sessions_end_and_with_them_what_only_they_could_open():
    begin("gone", -1)
    begin("here", 1)
    for key, user in (("gone", None), ("here", None), ("hers", User.objects.create_user("ada"))):
        leave(key, user)
    Generation.objects.create(source="api", tenant="key:1", base="b", request={}, created=LONG_AGO)
    tasks.forget_strangers()
    assert [session.session_key for session in Session.objects.all()] == ["here"]
    for kind in (Conversation, Comparison):
        assert {row.session_key for row in kind.objects.all()} == {"here", "hers"}
    assert {generation.tenant for generation in Generation.objects.all()} == {"key:1", "session:here", "session:hers"}


def test_a_chat_of_today_stays_although_its_session_has_ended():
    Conversation.objects.create(session_key="ended an hour ago")
    tasks.forget_strangers()
    assert Conversation.objects.count() == 1


def test_no_job_forgets_more_than_a_batch(monkeypatch):
    monkeypatch.setattr(tasks, "BATCH", 2)
    for number in range(3):
        leave(f"gone{number}")
    tasks.forget_strangers()
    assert (Conversation.objects.count(), Comparison.objects.count()) == (1, 1)
    tasks.forget_strangers()
    assert (Conversation.objects.count(), Generation.objects.count()) == (0, 0)


def test_every_job_of_the_beat_exists():
    app.loader.import_default_modules()
    assert {entry["task"] for entry in site_settings.CELERY_BEAT_SCHEDULE.values()} <= set(app.tasks)
