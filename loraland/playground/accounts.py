"""Signing in: the chats and comparisons that a visitor made before, under a session, become the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allauth.account.adapter import DefaultAccountAdapter
from django.db import transaction
from django.http import HttpRequest

from loraland.generations.models import Generation
from loraland.generations.visitor import tenant_of_user
from loraland.playground.models import Comparison, Conversation

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class Accounts(DefaultAccountAdapter):  # type: ignore[misc]
    def login(self, request: HttpRequest, user: User) -> None:
        session_key = request.session.session_key  # signing in gives the session another one
        super().login(request, user)
        if session_key:
            adopt(session_key, user)


def adopt(session_key: str, user: User) -> None:
    """Hand what an anonymous session owns to `user`. What another user owns under it stays where it is."""
    anonymous = {"user": None, "session_key": session_key}
    with transaction.atomic():
        for kind in (Conversation, Comparison):
            kind.objects.filter(**anonymous).update(user=user, session_key="")
        answers = Generation.objects.filter(**anonymous)
        answers.update(user=user, session_key="", tenant=tenant_of_user(user.pk))
