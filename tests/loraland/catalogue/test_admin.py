"""The admin's steps: publish, retire, validate again; what may be deleted; and its pages under the strict policy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from inference.wire.protocol import Probe
from loraland.catalogue.models import Adapter, AdapterVersion
from tests.loraland.adapter_files import write_adapter

LIST = "/admin/catalogue/adapterversion/"


@pytest.fixture
def admin(db: None, client: Client) -> Client:
    client.force_login(User.objects.create_superuser("admin"))
    return client


@pytest.fixture
def version(
    examined: Callable[..., AdapterVersion], proven: Callable[..., AdapterVersion], tmp_path: Path
) -> AdapterVersion:
    """A published version."""
    return proven(examined(write_adapter(tmp_path / "adapter")))


def act(client: Client, action: str, *versions: AdapterVersion) -> list[str]:
    data = {"action": action, "_selected_action": [version.pk for version in versions]}
    response = client.post(LIST, data, follow=True)
    return [str(message) for message in response.context["messages"]]


def test_retiring_takes_an_adapter_out_of_the_catalogue_and_publishing_puts_it_back(
    admin: Client, version: AdapterVersion
) -> None:
    assert act(admin, "retire", version) == [f"{version}: Retired."]
    assert not Adapter.objects.published().exists()
    assert act(admin, "publish", version) == [
        f"{version}: Published.",
        f"{version} has no prompt: it chats freely. Its page here takes one.",
    ]
    assert Adapter.objects.published().get() == version.adapter
    assert [entry.get_change_message() for entry in LogEntry.objects.all()] == ["Published.", "Retired."]


def test_validating_again_sends_a_proof_and_keeps_the_version_in_service(
    admin: Client, version: AdapterVersion, probes: list[Probe]
) -> None:
    act(admin, "validate_again", version)
    version.refresh_from_db()
    assert version.status == version.Status.PUBLISHED
    assert [probe.id for probe in probes][-1] == version.probe_id


def test_a_step_that_is_not_possible_is_told_and_not_logged(
    admin: Client, examined: Callable[..., AdapterVersion], tmp_path: Path
) -> None:
    version = examined(write_adapter(tmp_path))
    assert act(admin, "publish", version) == [f"{version} is Validating; only a ready version can be published."]
    assert not LogEntry.objects.exists()


def test_only_a_rejected_version_can_be_deleted(
    admin: Client, version: AdapterVersion, examined: Callable[..., AdapterVersion], tmp_path: Path
) -> None:
    rejected = examined(write_adapter(tmp_path / "bad", tensors=b""))
    assert admin.post(f"{LIST}{version.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin.post(f"/admin/catalogue/adapter/{version.adapter_id}/delete/", {"post": "yes"}).status_code == 403
    assert admin.post(f"{LIST}{rejected.pk}/delete/", {"post": "yes"}).status_code == 302
    assert AdapterVersion.objects.get() == version


def test_deleting_many_spares_what_answers_refer_to(admin: Client, version: AdapterVersion) -> None:
    admin.post(LIST, {"action": "delete_selected", "_selected_action": [version.pk], "post": "yes"})
    assert AdapterVersion.objects.get() == version


def test_the_list_of_a_digest_shows_all_its_versions(
    admin: Client, version: AdapterVersion, examined: Callable[..., AdapterVersion], tmp_path: Path
) -> None:
    other = examined(tmp_path / "adapter", "other")
    examined(write_adapter(tmp_path / "third", seed=3), "third")
    page = admin.get(reverse("admin:catalogue_adapterversion_changelist", query={"digest": version.digest}))
    assert set(page.context["cl"].queryset) == {version, other}


def test_the_texts_of_an_adapter_can_be_changed_and_its_slug_cannot(admin: Client, version: AdapterVersion) -> None:
    address = f"/admin/catalogue/adapter/{version.adapter_id}/change/"
    data = {"name": "Emotions", "slug": "stolen", "base": "other", "dataset": "{}"}
    assert admin.post(address, data).status_code == 302
    adapter = Adapter.objects.get()
    assert (adapter.name, adapter.slug, adapter.is_served) == ("Emotions", "emotion", True)


@pytest.mark.parametrize("page", ["add/", "", "{pk}/change/"])
def test_pages_hold_no_inline_script_or_style(page: str, admin: Client, version: AdapterVersion) -> None:
    response = admin.get(LIST + page.format(pk=version.pk))
    html = response.content.decode()
    assert response.status_code == 200
    assert "script-src 'self'" in response["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*(src=|application/json))", html)
    assert not re.search(r"\s(style|onclick|onload)=", html)
