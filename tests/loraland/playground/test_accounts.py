"""What becomes of an anonymous visitor's chats when it makes an account or signs in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from loraland.generations.models import Generation
from loraland.playground.models import Comparison, Conversation

pytestmark = pytest.mark.django_db

PASSWORD = "a long enough pass phrase"


@pytest.fixture(autouse=True)
def local_cache(settings: object) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


@pytest.fixture
def chatting(client: Client) -> Callable[[], Conversation]:
    """`chatting()` lets the client begin a chat, as the visitor that it then is."""

    def begin() -> Conversation:
        key = client.session.session_key
        Comparison.objects.create(session_key=key, text="Hello")
        Generation.objects.create(session_key=key, tenant=f"session:{key}", source="chat", base="b", request={})
        return Conversation.objects.create(session_key=key, title="Bridges")

    return begin


def test_a_new_account_takes_over_what_its_visitor_made(client, chatting):
    kept = chatting()
    client.post("/accounts/signup/", {"username": "ada", "password1": PASSWORD, "password2": PASSWORD})
    ada = User.objects.get()
    assert client.get(kept.get_absolute_url()).status_code == 200
    assert client.get(Comparison.objects.get().get_absolute_url()).status_code == 200
    answer = Generation.objects.get()
    assert (answer.user, answer.session_key, answer.tenant) == (ada, "", f"user:{ada.pk}")


def test_signing_in_takes_over_nothing_of_other_visitors(client, chatting):
    User.objects.create_user("ada", password=PASSWORD)
    Conversation.objects.create(session_key="another", title="Foreign")
    mine = chatting()
    assert client.post("/accounts/login/", {"login": "ada", "password": PASSWORD}).status_code == 302
    page = client.get(mine.get_absolute_url()).content.decode()
    assert "Bridges" in page
    assert "Foreign" not in page


def test_after_signing_out_nothing_of_the_user_is_left_to_see(client, chatting):
    User.objects.create_user("ada", password=PASSWORD)
    kept = chatting()
    client.post("/accounts/login/", {"login": "ada", "password": PASSWORD})
    client.post("/accounts/logout/")
    assert client.get(kept.get_absolute_url()).status_code == 404


def test_a_barred_user_is_told_so(client):
    User.objects.create_user("ada", password=PASSWORD, is_active=False)
    answer = client.post("/accounts/login/", {"login": "ada", "password": PASSWORD}, follow=True)
    assert "inactive" in answer.content.decode()


@pytest.mark.parametrize("path", ["password/reset/", "email/", "confirm-email/"])
def test_no_page_offers_what_needs_an_email_address(client, path):
    assert client.get(f"/accounts/{path}").status_code == 404
