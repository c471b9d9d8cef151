"""A chat template and tokens beside an adapter: told where they differ from the base's, and never used."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client

from inference.wire.protocol import Probe
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.tasks import validate_version
from tests.loraland.adapter_files import write_adapter

OWN = "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"
OTHER = "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}### Response:\n"
ADDED = json.dumps({"<|im_start|>": 1, "<tool_call>": 49152, "</tool_call>": 49153})


@pytest.fixture(autouse=True)
def _base(db: None, adapter_store: Path, probes: list[Probe], settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate_version, "delay_on_commit", validate_version)
    folder = settings.MODELS_DIR / settings.BASE_NAME
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": OWN}))
    vocabulary = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "<|im_start|>"}]}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))


def imported(folder: Path, **files: str) -> str:
    write_adapter(folder)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    err = io.StringIO()
    call_command("import_adapter", str(folder), "--no-wait", stdout=io.StringIO(), stderr=err)
    return err.getvalue()


@pytest.mark.parametrize("name", ["chat_template__jinja", "tokenizer_config__json"])
def test_another_template_is_told_with_how_to_give_one(name: str, tmp_path: Path) -> None:
    text = OTHER if name.endswith("jinja") else json.dumps({"chat_template": OTHER})
    said = imported(tmp_path / "mood", **{name: text})
    assert f"{name.replace('__', '.')}) is another than the base's, and is not used" in said
    assert "--template FILE" in said
    assert "card.toml" in said
    version = AdapterVersion.objects.get()
    assert (version.template, version.status) == ("", "validating")


def test_tokens_that_the_base_lacks_are_named(tmp_path: Path) -> None:
    said = imported(tmp_path / "mood", added_tokens__json=ADDED)
    assert "tokens that the base does not: '<tool_call>', '</tool_call>'." in said


def test_a_template_and_tokens_of_the_base_need_no_word(tmp_path: Path) -> None:
    settings = {"chat_template": OWN, "added_tokens_decoder": {"1": {"content": "<|im_start|>"}}}
    assert imported(tmp_path / "mood", tokenizer_config__json=json.dumps(settings)) == ""


@pytest.mark.parametrize("text", ["[]", "{", '{"chat_template": 5, "added_tokens_decoder": [1]}', "[" * 100_000])
def test_settings_that_say_nothing_keep_nothing_out(text: str, tmp_path: Path) -> None:
    assert imported(tmp_path / "mood", tokenizer_config__json=text) == ""


def test_the_admin_tells_it_of_a_zip_and_keeps_it_with_the_version(admin_client: Client, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    folder = write_adapter(tmp_path / "mood")
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"mood/{path.name}")
        archive.writestr("mood/chat_template.jinja", OTHER)
        archive.writestr("mood/added_tokens.json", ADDED)
    data = {"publish_when_ready": "on", "chats_freely": "on"}
    file = {"archive": SimpleUploadedFile("a.zip", buffer.getvalue())}
    address = "/admin/catalogue/adapterversion/add/"
    held = admin_client.post(address, data | file).context["adminform"].form.data["held"]  # it lacks a name
    shown = admin_client.post(address, data | {"name": "Mood", "held": held}, follow=True).content.decode()
    assert shown.count("and is not used: a conversation") == 2  # as a message, and on the version's page
    version = AdapterVersion.objects.get()
    assert ["template" in version.remarks[0], "tokens" in version.remarks[1]] == [True, True]
