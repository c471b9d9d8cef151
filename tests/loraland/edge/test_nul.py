"""A NUL in a form: no database keeps one, PostgreSQL least of all, and whoever sends it is told what to do."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

pytestmark = pytest.mark.django_db

NUL = "a\0b"
STRANGERS = {
    "/accounts/login/": {"login": NUL, "password": NUL, "next": NUL},
    "/accounts/signup/": {"username": NUL, "password1": NUL, "password2": NUL},
    "/accounts/logout/": {"next": NUL},
    "/admin/login/": {"username": NUL, "password": NUL},
    "/chat/": {"adapter": NUL},
    "/compare/": {"column": NUL},
}
ADDED = ("auth/user", "auth/group", "api/apikey", "catalogue/adapter", "catalogue/adapterversion", "evals/dataset")


@pytest.fixture(autouse=True)
def local_cache(settings: object) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("eve"))
    return client


@pytest.mark.parametrize("path", STRANGERS)
def test_a_strangers_form_with_a_nul_is_answered(client, path):
    client.cookies["csrftoken"] = client.cookies["messages"] = NUL
    assert client.post(path, STRANGERS[path]).status_code < 500


@pytest.mark.parametrize("model", ADDED)
def test_a_form_of_the_admin_with_a_nul_in_every_field_is_answered(staff, model):
    page = staff.get(f"/admin/{model}/add/")
    if page.status_code != 200:
        pytest.skip("nothing is added here")
    fields = page.context["adminform"].form.fields
    sent: dict[str, Any] = dict.fromkeys(fields, NUL)
    sent |= {name: SimpleUploadedFile(NUL, b"\0") for name in fields if "file" in name or name == "archive"}
    answer = staff.post(f"/admin/{model}/add/", sent)
    assert answer.status_code < 500
    assert answer.status_code != 302


@pytest.mark.parametrize("model", [*ADDED, "training/training", "evals/run"])
def test_an_address_of_the_admin_that_spells_a_nul_is_not_found(staff, model):
    assert staff.get(f"/admin/{model}/_00/change/").status_code in {302, 404}


def test_a_user_whose_name_holds_a_nul_is_not_made(client):
    sent = {"username": "ada\0", "password1": "a long enough phrase", "password2": "a long enough phrase"}
    answer = client.post("/accounts/signup/", sent)
    assert (answer.status_code, "Null characters are not allowed" in answer.content.decode()) == (200, True)
    assert not User.objects.exists()
