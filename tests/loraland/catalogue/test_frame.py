"""The frame that all pages share, the account pages and what is shown when something goes wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.template.loader import render_to_string
from django.test import Client

INLINE = re.compile(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)")


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/", "/accounts/login/", "/accounts/signup/"])
def test_a_page_has_a_language_a_title_a_skip_link_and_nothing_inline(client: Client, path: str) -> None:
    page = client.get(path).content.decode()
    assert '<html lang="en">' in page
    assert re.search(r"<title>\s*\S+", page)
    assert 'href="#main"' in page
    assert 'id="main"' in page
    assert not INLINE.search(page)


@pytest.mark.django_db
def test_htmx_may_not_evaluate_nor_write_styles(client: Client) -> None:
    page = client.get("/").content.decode()
    assert '"allowEval":false' in page
    assert '"includeIndicatorStyles":false' in page


@pytest.mark.parametrize("name", ["400", "403", "403_csrf", "404", "500"])
def test_an_error_page_renders_without_any_context(name: str) -> None:
    page = render_to_string(f"{name}.html")
    assert name[:3] in page
    assert "Go to the catalogue" in page


@pytest.mark.django_db
def test_a_visitor_makes_an_account_signs_out_and_signs_in_again(client: Client, settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    name, password = "ada", "a long enough pass phrase"
    made = client.post("/accounts/signup/", {"username": name, "password1": password, "password2": password})
    assert made.status_code == 302
    assert User.objects.get().username == name
    assert "Sign out" in client.get("/").content.decode()
    assert client.post("/accounts/logout/").status_code == 302
    assert client.post("/accounts/login/", {"login": name, "password": password}).status_code == 302


@pytest.mark.django_db
def test_a_refused_form_says_why_beside_the_field(client: Client, settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    fields = {"username": "ada", "password1": "short", "password2": "short"}
    page = client.post("/accounts/signup/", fields).content.decode()
    assert re.search(r'class="error"[^>]*>[^<]*at least 10 characters', page)


@pytest.mark.django_db
def test_a_form_without_its_token_is_refused_with_a_sentence() -> None:
    response = Client(enforce_csrf_checks=True).post("/accounts/login/", {"login": "ada"})
    assert response.status_code == 403
    assert "The form was out of date" in response.content.decode()
