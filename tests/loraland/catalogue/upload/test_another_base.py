"""An adapter whose config names another base of the same shape: asked about, confirmed, told where it is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from inference.wire.protocol import Probe
from loraland.api.entries import of_version
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.tasks import validate_version
from tests.loraland.adapter_files import lora_config, lora_tensors, safetensors_bytes, write_adapter
from tests.loraland.catalogue.upload.imports import imported

OTHER = "HuggingFaceTB/SmolLM2-135M"
UPLOAD = "/admin/catalogue/adapterversion/add/"
Prove = Callable[[AdapterVersion], AdapterVersion]


@pytest.fixture(autouse=True)
def _site(db: None, adapter_store: Path, probes: list[Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate_version, "delay_on_commit", validate_version)


def plain_models(directory: Path, named: str | None = OTHER) -> Path:
    return write_adapter(directory / "mood", config=lora_config(base_model_name_or_path=named))


def test_without_a_word_of_the_owner_it_is_refused(tmp_path: Path) -> None:
    said = imported(plain_models(tmp_path))
    assert f"names the base {OTHER} (base_model_name_or_path), and this site serves SmolLM2-135M-Instruct" in said
    assert "--confirm-base" in said
    assert AdapterVersion.objects.get().status == "rejected"


def test_a_confirmed_one_is_taken_with_a_warning_and_told_everywhere(
    tmp_path: Path, proven: Prove, client: Client, admin_client: Client
) -> None:
    imported(plain_models(tmp_path))
    assert f"mood: adapter_config.json names the base {OTHER}" in imported(plain_models(tmp_path), "--confirm-base")
    version = proven(AdapterVersion.objects.select_related("adapter").exclude(status="rejected").get())
    assert (version.status, version.named_base, version.base_confirmed) == ("published", OTHER, True)
    about = of_version(version, "mood")["loraland"]
    assert (about["base"], about["named_base"], about["base_confirmed"]) == ("SmolLM2-135M-Instruct", OTHER, True)
    page = client.get("/adapters/mood/").content.decode()
    assert f"Its config names another base, {OTHER};" in page
    assert "Its owner confirmed that." in page
    shown = admin_client.get(f"/admin/catalogue/adapterversion/{version.pk}/change/").content.decode()
    assert OTHER in shown
    assert "Its owner confirmed the base." in shown


@pytest.mark.parametrize("named", ["unsloth/SmolLM2-135M-Instruct-bnb-4bit", "SmolLM2-135M-Instruct.gguf"])
def test_another_name_of_the_served_model_is_no_reason_to_warn(tmp_path: Path, named: str) -> None:
    assert imported(plain_models(tmp_path, named)) == ""
    version = AdapterVersion.objects.get()
    assert (version.remarks, version.base_doubt, version.base_confirmed) == ([], "", False)


@pytest.mark.parametrize(("named", "told"), [("/home/me/final", "only a path (/home/me/final)"), (None, "no base")])
def test_a_config_that_names_nobodys_base_is_taken_with_a_mild_word(
    tmp_path: Path, named: str | None, told: str
) -> None:
    assert f"names {told}" in imported(plain_models(tmp_path, named))
    assert AdapterVersion.objects.get().status == "validating"


def test_the_form_asks_for_a_tick_and_keeps_the_files_meanwhile(admin_client: Client) -> None:
    config = json.dumps(lora_config(base_model_name_or_path=OTHER)).encode()
    files = {
        "config_file": SimpleUploadedFile("adapter_config.json", config),
        "weights_file": SimpleUploadedFile("adapter_model.safetensors", safetensors_bytes(lora_tensors())),
    }
    data: dict[str, Any] = {"name": "Mood", "publish_when_ready": "on", "chats_freely": "on"}
    form = admin_client.post(UPLOAD, data | files).context["adminform"].form
    assert list(form.errors) == ["base_confirmed"]
    assert f"names the base {OTHER}" in form.errors["base_confirmed"][0]
    assert not AdapterVersion.objects.exists()
    ticked = admin_client.post(UPLOAD, data | {"held": form.data["held"], "base_confirmed": "on"})
    assert ticked.status_code == 302
    version = AdapterVersion.objects.get()
    assert (version.status, version.base_confirmed) == ("validating", True)
    assert version.created_by == User.objects.get()
