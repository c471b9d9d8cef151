"""Names that the admin offers while one is written: some, and those that fit what is written so far."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.upload.offered import OFFERED
from tests.bench import crowd

pytestmark = pytest.mark.django_db
UPLOAD = "/admin/catalogue/adapterversion/add/"


def offered(client: Client, kind: str, words: str = "") -> list[str]:
    response = client.get(f"/admin/catalogue/adapterversion/offered/{kind}/", {"q": words})
    assert response.status_code == 200
    return re.findall(r'<option value="([^"]+)">', response.content.decode())


def test_the_forms_offer_a_few_of_many_and_ask_for_more_where_they_say(admin_client: Client) -> None:
    crowd.fill(80)
    for address, kinds in ((UPLOAD, ["adapter"]), (f"{UPLOAD}?kind=blend", ["part", "blend"])):
        page = admin_client.get(address).content.decode()
        assert page.count("<option ") <= 2 * OFFERED
        assert re.findall(r'data-offers="/admin/catalogue/adapterversion/offered/(\w+)/"', page) == kinds
        assert "js/offered.js" in page


def test_what_is_written_finds_slugs_and_names_of_the_kind_that_is_meant(
    admin_client: Client, publish: Callable[..., AdapterVersion]
) -> None:
    crowd.fill(80)
    publish("hidden-draft", "f", status="ready")
    Adapter.objects.filter(slug="hidden-draft").update(name="Tide tables")
    assert offered(admin_client, "adapter", "tide TABLES") == ["hidden-draft"]
    assert offered(admin_client, "part", "tide") == []
    assert offered(admin_client, "blend", "crowd-0000") == ["crowd-00002"]
    assert "crowd-00002" not in offered(admin_client, "part", "crowd-0000")
    assert offered(admin_client, "part", "zebra") == []
    assert admin_client.get("/admin/catalogue/adapterversion/offered/zebra/").status_code == 404


def test_names_that_no_page_shows_are_for_those_who_see_versions(client: Client) -> None:
    client.force_login(User.objects.create_user("staff", is_staff=True))
    assert client.get("/admin/catalogue/adapterversion/offered/adapter/").status_code == 403
    assert offered(client, "part") == []


def test_a_version_of_what_is_not_there_is_refused_with_its_name(admin_client: Client) -> None:
    page = admin_client.post(UPLOAD, {"adapter": "nobody"}).content.decode()
    assert "There is no nobody to add a version to" in page
