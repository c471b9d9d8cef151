"""Signing in: attempts are counted, and what a visitor made before, under a session, becomes the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from allauth.account.adapter import DefaultAccountAdapter
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from loraland.edge.hashing import Busy
from loraland.generations.models import Generation
from loraland.generations.visitor import tenant_of_user
from loraland.playground import attempts
from loraland.playground.models import Comparison, Conversation

if TYPE_CHECKING:
    from django.contrib.auth.models import User


TOO_MANY: Final = "too_many_attempts"


class Accounts(DefaultAccountAdapter):  # type: ignore[misc]
    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """The user with these credentials. Raises `ValidationError` for attempts past their limit, looking at none."""
        name = str(credentials.get("username", ""))
        counted = attempts.limits(request, name)
        if wait := attempts.spend(counted):
            sentence = "There were too many attempts to sign in; wait %(wait)s seconds, then try again."
            raise ValidationError(sentence, TOO_MANY, {"wait": wait})
        try:
            user: User | None = super().authenticate(request, **credentials)
        except Busy:
            attempts.give_back(counted)
            raise
        if user is not None:
            attempts.give_back(counted)
        return user

    def post_login(self, request: HttpRequest, user: User, **about: Any) -> HttpResponse:
        response: HttpResponse = super().post_login(request, user, **about)
        attempts.remember(response, user.get_username())
        return response

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
