"""A chat template and a tokenizer beside an adapter: told where they differ from the base's. A template is never used;
tokens that have a row in the base's table become the adapter's own."""

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
from loraland.catalogue.store import kept
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


WITHIN = [
    {"id": 5, "content": "<gene>", "special": False, "lstrip": False},
    {"id": 7, "content": "<|turn|>", "special": True},
    {"id": 6, "content": "[STOP]", "special": False},
    {"id": 1, "content": "<|im_start|>", "special": True},
]
OWN_TOKENS = [
    {"id": 5, "content": "<gene>", "special": False, "ends": False},
    {"id": 6, "content": "[STOP]", "special": True, "ends": True},
    {"id": 7, "content": "<|turn|>", "special": True, "ends": False},
]
SPELLINGS: dict[str, dict[str, Any]] = {
    "tokenizer.json": {
        "tokenizer__json": {"model": {"vocab": {"a": 0}}, "added_tokens": WITHIN},
        "tokenizer_config__json": {"eos_token": "[STOP]"},
    },
    "added_tokens_decoder": {
        "tokenizer_config__json": {
            "eos_token": {"content": "[STOP]"},
            "added_tokens_decoder": {str(token["id"]): token for token in WITHIN},
        }
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_tokens_that_have_rows_become_the_adapters_own(spelling: str, tmp_path: Path) -> None:
    files = {name: json.dumps(content) for name, content in SPELLINGS[spelling].items()}
    said = imported(tmp_path / "mood", **files)
    assert "has tokens that the base does not: '<gene>', '[STOP]', '<|turn|>'. They are read in its prompts" in said
    version = AdapterVersion.objects.get()
    assert version.config["added_tokens"] == OWN_TOKENS
    stored = json.loads((kept(version.digest) / "adapter_config.json").read_text())
    assert stored["added_tokens"] == OWN_TOKENS
    imported(tmp_path / "mood", **files)
    assert AdapterVersion.objects.count() == 1
    for name in files:
        (tmp_path / "mood" / name.replace("__", ".")).unlink()
    imported(tmp_path / "mood")
    assert AdapterVersion.objects.count() == 2


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_a_token_that_takes_what_is_beside_it_is_told(flag: str, tmp_path: Path) -> None:
    flagged = [WITHIN[0] | {flag: True}, WITHIN[1]]
    files = {"tokenizer.json": {"model": {"vocab": {"a": 0}}, "added_tokens": flagged}}
    files["tokenizer_config.json"] = {"added_tokens_decoder": {"5": flagged[0]}}
    for number, (name, content) in enumerate(files.items()):
        said = imported(tmp_path / f"mood-{number}", **{name.replace(".", "__"): json.dumps(content)})
        assert "Its tokenizer takes spaces beside '<gene>', or finds none within a word (lstrip, rstrip" in said
    plain = json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": WITHIN})
    assert "takes spaces" not in imported(tmp_path / "plain", tokenizer__json=plain)


def test_a_tokenizer_of_other_words_gives_no_tokens(tmp_path: Path) -> None:
    other = {"model": {"vocab": {"b": 0}}, "added_tokens": WITHIN}
    assert imported(tmp_path / "mood", tokenizer__json=json.dumps(other)) == ""
    assert "added_tokens" not in AdapterVersion.objects.get().config


@pytest.mark.parametrize(
    "entry",
    [{"id": "5", "content": "x"}, {"id": 5, "content": 3}, {"id": -5, "content": "x"}, {"id": 5, "content": "\0"}, 5],
)
def test_an_entry_that_is_no_token_is_none(entry: Any, tmp_path: Path) -> None:
    found = {"model": {"vocab": {"a": 0}}, "added_tokens": [entry, {"id": 8, "content": "<b>"}]}
    assert "does not: '<b>'. They are read" in imported(tmp_path / "mood", tokenizer__json=json.dumps(found))


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
        archive.writestr("mood/added_tokens.json", json.dumps(json.loads(ADDED) | {"<gene>": 5}))
    data = {"publish_when_ready": "on", "chats_freely": "on"}
    file = {"archive": SimpleUploadedFile("a.zip", buffer.getvalue())}
    address = "/admin/catalogue/adapterversion/add/"
    held = admin_client.post(address, data | file).context["adminform"].form.data["held"]  # it lacks a name
    shown = admin_client.post(address, data | {"name": "Mood", "held": held}, follow=True).content.decode()
    assert shown.count("and is not used: a conversation") == 2  # as a message, and on the version's page
    version = AdapterVersion.objects.get()
    words = ("template", "'<gene>'", "They are not used")
    assert all(word in remark for word, remark in zip(words, version.remarks, strict=False))
    assert [token["content"] for token in version.config["added_tokens"]] == ["<gene>"]
