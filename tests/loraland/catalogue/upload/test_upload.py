"""Uploading in the admin: two files or a .zip, told what is wrong, examined by the job."""

from __future__ import annotations

import io
import json
import os
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from inference.wire.protocol import Probe
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.tasks import drop_left_uploads, validate_version
from tests.inference.engines import make_tokenizer
from tests.loraland.adapter_files import lora_config, lora_tensors, safetensors_bytes, write_adapter

UPLOAD = "/admin/catalogue/adapterversion/add/"
CONFIG = json.dumps(lora_config()).encode()
WEIGHTS = safetensors_bytes(lora_tensors())
TEMPLATE = "Tweet: {text}\nEmotion:\n"


@pytest.fixture(autouse=True)
def _site(adapter_store: Path, probes: list[Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    """The examination at once, where a Celery worker would do it."""
    monkeypatch.setattr(validate_version, "delay_on_commit", validate_version)


@pytest.fixture
def owner(db: None, client: Client, grant: Callable[..., None]) -> Client:
    """A member of staff who may upload and look, but not change."""
    user = User.objects.create_user("owner", is_staff=True)
    grant(user, AdapterVersion, "add", "view")
    grant(user, Adapter, "view")
    client.force_login(user)
    return client


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data, method)
    return buffer.getvalue()


def form(**changes: Any) -> dict[str, Any]:
    data = {"name": "Tweet emotion", "category": "Classification", "publish_when_ready": "on", "template": TEMPLATE}
    return data | changes


def pair(config: bytes = CONFIG, weights: bytes = WEIGHTS) -> dict[str, SimpleUploadedFile]:
    return {
        "config_file": SimpleUploadedFile("adapter_config.json", config),
        "weights_file": SimpleUploadedFile("adapter_model.safetensors", weights),
    }


def upload(client: Client, **changes: Any) -> list[str]:
    """Send the form; what it complains of, nothing when it was taken."""
    response = client.post(UPLOAD, form(**changes))
    if response.status_code == 302:
        return []
    assert response.status_code == 200
    return [error for errors in response.context["adminform"].form.errors.values() for error in errors]


def test_two_files_become_a_version_that_waits_for_its_proof(owner: Client, probes: list[Probe]) -> None:
    lines = '{"text": "What a day!", "expected": "joy"}\n\n{"inputs": {"text": "Oh no"}, "expected": "sadness"}'
    assert upload(owner, **pair(), example_lines=lines, summary="Names the emotion of a tweet.") == []
    version = AdapterVersion.objects.get()
    assert (version.adapter.slug, version.adapter.base) == ("tweet-emotion", "SmolLM2-135M-Instruct")
    assert version.status == version.Status.VALIDATING
    assert version.template == TEMPLATE
    assert version.fields == [{"name": "text", "label": "Text", "rows": 3}]
    assert [example["expected"] for example in version.examples] == ["joy", "sadness"]
    assert version.created_by == User.objects.get()
    assert [probe.adapter.digest for probe in probes] == [version.digest]
    assert LogEntry.objects.get().get_change_message() == "Uploaded for tweet-emotion."


def test_a_zip_of_the_two_files_is_the_same_upload(owner: Client, adapter_store: Path) -> None:
    archive = zipped(("adapter_config.json", CONFIG), ("adapter_model.safetensors", WEIGHTS))
    assert upload(owner, archive=SimpleUploadedFile("anything.zip", archive)) == []
    version = AdapterVersion.objects.get()
    assert (adapter_store / version.digest / "adapter_model.safetensors").read_bytes() == WEIGHTS


def test_the_same_digest_again_succeeds_and_changes_nothing(owner: Client, adapter_store: Path) -> None:
    upload(owner, **pair())
    before = AdapterVersion.objects.values().get()
    again = pair(config=json.dumps(lora_config(base_model_name_or_path="elsewhere/name")).encode())
    response = owner.post(UPLOAD, form(**again, name="", category="", adapter=Adapter.objects.get().slug), follow=True)
    assert "nothing changed" in str(list(response.context["messages"])[-1])
    assert AdapterVersion.objects.values().get() == before
    assert list((adapter_store.parent / "quarantine").iterdir()) == []


def test_the_same_digest_may_stand_under_another_slug(owner: Client) -> None:
    upload(owner, **pair())
    assert upload(owner, **pair(), slug="other") == []
    assert AdapterVersion.objects.values_list("digest").distinct().count() == 1
    assert Adapter.objects.count() == 2


def test_a_new_version_takes_the_prompt_of_the_latest(owner: Client) -> None:
    upload(owner, **pair(), example_lines='{"text": "What a day!"}')
    adapter = Adapter.objects.get()
    files = pair(weights=safetensors_bytes(lora_tensors(seed=1)))
    assert upload(owner, **files, adapter=adapter.slug, name="", category="", template="") == []
    new, old = adapter.versions.all()
    assert (new.template, new.fields, new.examples) == (old.template, old.fields, old.examples)
    assert new.digest != old.digest


def test_a_damaged_upload_is_rejected_with_its_reasons_on_its_page(owner: Client) -> None:
    assert upload(owner, **pair(config=json.dumps(lora_config(use_qalora=True)).encode())) == []
    version = AdapterVersion.objects.get()
    page = owner.get(f"/admin/catalogue/adapterversion/{version.pk}/change/").content.decode()
    assert version.status == version.Status.REJECTED
    assert "The adapter uses QA-LoRA (use_qalora)" in page


def test_a_rejected_digest_can_be_uploaded_again(owner: Client, refused: Callable[..., AdapterVersion]) -> None:
    upload(owner, **pair())
    refused(AdapterVersion.objects.get())
    assert upload(owner, **pair(), name="", category="", adapter=Adapter.objects.get().slug) == []
    assert sorted(AdapterVersion.objects.values_list("status", flat=True)) == ["rejected", "validating"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": ""}, "Give it a name"),
        ({"name": "感情"}, "No address can be made"),
        ({"slug": "no slug"}, "valid “slug”"),
        ({"base": "a/b"}, "without slashes"),
        ({"template": "no place"}, "The template has no field"),
        ({"template": "", "field_names": "text"}, "no place for the field text"),
        ({"field_names": "text, text"}, "given twice"),
        ({"field_names": "text, 1st"}, "'1st' is not a field name"),
        ({"example_lines": "joy"}, "Line 1 of the examples is not JSON"),
        ({"example_lines": '\n{"tweet": "x"}'}, "the field text is missing"),
        ({"example_lines": '{"text": "x", "lang": "en"}'}, "there is no field lang"),
        ({"example_lines": '{"text": 5}'}, "every value must be text"),
        ({"example_lines": '{"text": "\\ud800"}'}, "cannot be kept"),
        ({"example_lines": "[" * 100_000}, "not JSON"),
        ({"template": "", "example_lines": '{"text": "x"}'}, "need a template"),
        ({"template": ""}, "published as a free chat"),
        ({"weights_file": ""}, "or one .zip of exactly these two"),
        ({"archive": SimpleUploadedFile("a.zip", b"PK")}, "or one .zip of exactly these two"),
    ],
)
def test_a_form_that_cannot_be_used_says_why(changes: dict[str, Any], complaint: str, owner: Client) -> None:
    errors = upload(owner, **pair() | changes)
    assert any(complaint in error for error in errors), errors
    assert not AdapterVersion.objects.exists()


def test_a_slug_that_exists_is_not_taken_over(owner: Client) -> None:
    upload(owner, **pair())
    assert any("exists already" in error for error in upload(owner, **pair()))


def test_no_adapter_is_called_as_the_base_is(owner: Client) -> None:
    assert any("base is the name of the base model" in error for error in upload(owner, slug="base", **pair()))


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("adapter_model.safetensors")
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


GOOD = (("adapter_config.json", CONFIG), ("adapter_model.safetensors", WEIGHTS))


def broken_checksum() -> bytes:
    data = bytearray(zipped(*GOOD, method=zipfile.ZIP_STORED))
    data[data.index(WEIGHTS[:64]) + 60] ^= 1
    return bytes(data)


def encrypted() -> bytes:
    data = bytearray(zipped(*GOOD))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def understated() -> bytes:
    """The directory claims one byte of the weights; there are many more."""
    data = bytearray(zipped(*GOOD))
    size = data.rindex(b"PK\x01\x02") + 24
    data[size : size + 4] = (1).to_bytes(4, "little")
    return bytes(data)


def changed(found: bytes, place: int, data: bytes) -> bytes:
    """A good archive with `data` written `place` bytes behind the last `found`."""
    archive = bytearray(zipped(*GOOD))
    at = archive.rindex(found) + place
    archive[at : at + len(data)] = data
    return bytes(archive)


def half_a_character(record: bytes, flags: int, name: int) -> bytes:
    """The name in the last `record` is said to be UTF-8 and is not."""
    archive = bytearray(zipped(*GOOD))
    at = archive.rindex(record)
    archive[at + flags + 1] |= 0x08
    archive[at + name] = 0xFF
    return bytes(archive)


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "a directory before the file's beginning": (
        changed(b"PK\5\6", 12, (60_000).to_bytes(4, "little")),
        "The .zip is damaged",
    ),
    "a file before the file's beginning": (changed(b"PK\5\6", 16, (60_000).to_bytes(4, "little")), "could not be read"),
    "a name in the directory that is not UTF-8": (half_a_character(b"PK\1\2", 8, 46), "The .zip is damaged"),
    "a name beside the data that is not UTF-8": (half_a_character(b"PK\3\4", 6, 30), "is damaged in the .zip"),
    "no archive": (b"not a zip", "not a plain .zip"),
    "an empty archive": (zipped(), "lacks adapter_config.json"),
    "a truncated archive": (zipped(*GOOD)[:-30], "not a plain .zip"),
    "a directory that is not there": (zipped(*GOOD)[-22:], "damaged"),
    "a file outside": (zipped(*GOOD, ("../../evil.py", b"")), "holds '../../evil.py'"),
    "an absolute path": (zipped(*GOOD, ("/etc/passwd", b"")), "holds '/etc/passwd'"),
    "a Windows path": (zipped(*GOOD, ("..\\evil.py", b"")), "holds '..\\\\evil.py'"),
    "one file in a folder": (zipped(("a/adapter_config.json", CONFIG), GOOD[1]), "They belong in one folder"),
    "two folders": (zipped(("a/b/adapter_config.json", CONFIG), GOOD[1]), "They belong in one folder"),
    "a folder that goes up": (zipped(("../adapter_config.json", CONFIG), GOOD[1]), "holds '../adapter_config.json'"),
    "a card that cannot be used": (zipped(*GOOD, ("card.toml", b"nam = 'x'")), "card.toml has an unknown key"),
    "a name that goes on after NUL": (
        zipped(("adapter_config.json~.md", CONFIG), GOOD[1]).replace(b"json~.md", b"json\0.md"),
        "holds 'adapter_config.json\\x00.md'",
    ),
    "only the config": (zipped(GOOD[0]), "lacks adapter_model.safetensors"),
    "the same file twice": (zipped(*GOOD, GOOD[0]), "holds adapter_config.json twice"),
    "a link": (zipped(GOOD[0], (link(), b"/etc/passwd")), "is a link"),
    "a bomb": (zipped(GOOD[0], (GOOD[1][0], bytes(3 * 2**20))), "Unpacked, the files have 3 MB"),
    "a bomb that understates its size": (understated(), "damaged"),
    "a password": (encrypted(), "is encrypted"),
    "a strange packing": (zipped(*GOOD, method=zipfile.ZIP_BZIP2), "is packed by method 12"),
    "a wrong checksum": (broken_checksum(), "Bad CRC-32"),
    "a hundred files": (zipped(*((f"{number}.txt", b"") for number in range(1100))), "lists 1100 files"),
    "a comment": (zipped(*GOOD)[:-2] + b"\x04\x00PK\x05\x06", "carries a comment"),
}


CARD = f"""name = "Moods"
summary = "Names the mood of a tweet."
base = "SmolLM2-135M-Instruct"
[dataset]
license = "CC0"
[score]
metric = "accuracy"
base = 0.0
tuned = 1.0
n = 300
[prompt]
template = {json.dumps(TEMPLATE)}
[[prompt.field]]
name = "text"
label = "Tweet"
rows = 2
[[example]]
inputs = {{ text = "What a day!" }}
expected = "joy"
""".encode()
COMPANIONS = ("README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "training_args.bin")


def as_people_have_it(*more: tuple[str, bytes]) -> SimpleUploadedFile:
    """An adapter's folder with its card and what training leaves beside it, packed on a Mac."""
    inside = [*GOOD, ("card.toml", CARD), *((name, b"\x80\x04not read") for name in COMPANIONS), *more]
    entries = [("moods/", b""), *((f"moods/{name}", data) for name, data in inside), ("__MACOSX/moods/._x", b"")]
    return SimpleUploadedFile("moods.zip", zipped(*entries))


def test_a_folder_with_its_card_is_taken_as_it_is_and_fills_the_form(owner: Client, adapter_store: Path) -> None:
    blank = {"name": "", "category": "", "template": "", "archive": as_people_have_it()}
    response = owner.post(UPLOAD, form(**blank), follow=True)
    version = AdapterVersion.objects.get()
    assert (version.adapter.name, version.adapter.slug) == ("Moods", "moods")
    assert (version.adapter.summary, version.adapter.dataset) == ("Names the mood of a tweet.", {"license": "CC0"})
    assert (version.template, version.fields) == (TEMPLATE, [{"name": "text", "label": "Tweet", "rows": 2}])
    assert version.examples == [{"inputs": {"text": "What a day!"}, "expected": "joy"}]
    assert version.score == {}, "a score is measured here"
    assert "README.md, special_tokens_map.json, tokenizer.json" in " ".join(map(str, response.context["messages"]))
    kept = adapter_store / version.digest
    assert sorted(file.name for file in kept.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_what_is_written_goes_before_the_card(owner: Client) -> None:
    assert upload(owner, archive=as_people_have_it(), name="My moods", template="T: {t}", field_names="") == []
    version = AdapterVersion.objects.get()
    assert (version.adapter.name, version.template, version.field_names) == ("My moods", "T: {t}", ("t",))


def test_a_refused_form_offers_its_files_again_to_their_owner_alone(owner: Client, settings: Any) -> None:
    first = owner.post(UPLOAD, form(name="", template="", archive=SimpleUploadedFile("a.zip", zipped(*GOOD))))
    shown = first.context["adminform"].form
    assert "name" in shown.errors
    held = shown.data["held"]
    assert f'value="{held}"' in first.content.decode()
    assert "Your files are here" in first.content.decode()
    stranger = Client()
    stranger.force_login(User.objects.create_superuser("stranger"))
    assert any("Choose adapter_config.json" in error for error in upload(stranger, held=held))
    assert upload(owner, held=held) == []
    assert AdapterVersion.objects.get().created_by == User.objects.get(username="owner")
    assert any("Choose adapter_config.json" in error for error in upload(owner, held=held, slug="again"))


def test_other_files_take_the_place_of_those_that_were_held(owner: Client, settings: Any) -> None:
    response = owner.post(UPLOAD, form(name="", **pair(weights=safetensors_bytes(lora_tensors(seed=3)))))
    held = response.context["adminform"].form.data["held"]
    assert upload(owner, held=held, **pair()) == []
    assert list(settings.QUARANTINE_DIR.iterdir()) == []


def test_files_whose_form_is_never_put_right_go_after_a_day(owner: Client, settings: Any) -> None:
    upload(owner, name="", **pair())
    (held,) = settings.QUARANTINE_DIR.iterdir()
    drop_left_uploads()
    assert held.is_dir()
    os.utime(held, (0, 0))
    drop_left_uploads()
    assert not held.exists()


def test_an_upload_without_a_prompt_is_a_draft_or_says_that_it_chats(owner: Client) -> None:
    assert upload(owner, **pair(), template="", publish_when_ready="") == []
    other = pair(weights=safetensors_bytes(lora_tensors(seed=2)))
    assert upload(owner, **other, template="", name="Talker", chats_freely="on") == []
    assert [version.publish_when_ready for version in AdapterVersion.objects.order_by("pk")] == [False, True]


def test_the_same_weights_under_another_name_are_told_of(owner: Client) -> None:
    upload(owner, **pair())
    response = owner.post(UPLOAD, form(**pair(), name="Other"), follow=True)
    assert "exactly these weights already: Tweet emotion (tweet-emotion@" in " ".join(
        map(str, response.context["messages"])
    )


@pytest.fixture
def mender(owner: Client, grant: Callable[..., None]) -> Client:
    """The owner, who may change what is there."""
    grant(User.objects.get(username="owner"), AdapterVersion, "change")
    return owner


def test_a_prompt_is_mended_in_place_without_other_weights(mender: Client) -> None:
    upload(mender, **pair())
    version = AdapterVersion.objects.get()
    AdapterVersion.objects.update(score={"base": 0.1, "tuned": 0.9}, status="published")
    page = f"/admin/catalogue/adapterversion/{version.pk}/change/"
    assert "Tweet: {text}" in mender.get(page).content.decode()
    wrong = mender.post(page, {"template": "no field", "field_names": "", "example_lines": ""})
    assert "The template has no field" in wrong.content.decode()
    data = {"template": "Say: {words}", "field_names": "", "example_lines": '{"words": "hello", "expected": "joy"}'}
    response = mender.post(page, data, follow=True)
    after = AdapterVersion.objects.get()
    assert (after.template, after.field_names, after.examples[0]["expected"]) == ("Say: {words}", ("words",), "joy")
    assert (after.digest, after.status, after.score) == (version.digest, "published", {})
    assert "measured with the other prompt" in " ".join(map(str, response.context["messages"]))
    assert "it was 'Tweet: {text}" in LogEntry.objects.latest("pk").get_change_message()


def test_examples_alone_leave_the_score_as_it_is(mender: Client) -> None:
    upload(mender, **pair())
    AdapterVersion.objects.update(score={"base": 0.1, "tuned": 0.9})
    version = AdapterVersion.objects.get()
    data = {"template": TEMPLATE, "field_names": "text", "example_lines": '{"text": "hello"}'}
    mender.post(f"/admin/catalogue/adapterversion/{version.pk}/change/", data)
    after = AdapterVersion.objects.get()
    assert (len(after.examples), after.score["tuned"], after.fields) == (1, 0.9, version.fields)


def test_who_may_only_look_cannot_mend(owner: Client) -> None:
    upload(owner, **pair())
    page = f"/admin/catalogue/adapterversion/{AdapterVersion.objects.get().pk}/change/"
    assert owner.post(page, {"template": "{x}"}).status_code == 403
    assert AdapterVersion.objects.get().template == TEMPLATE


@pytest.mark.parametrize("trick", ARCHIVES)
def test_a_tricky_archive_is_refused(trick: str, owner: Client, settings: Any, adapter_store: Path) -> None:
    settings.MAX_UPLOAD_MB = 2
    data, reason = ARCHIVES[trick]
    errors = upload(owner, archive=SimpleUploadedFile("adapter.zip", data))
    assert any(reason in error for error in errors), errors
    assert not AdapterVersion.objects.exists()
    if "card" not in trick:
        assert list(adapter_store.parent.rglob("adapter_*")) == []


def test_files_past_the_limit_are_refused(owner: Client, settings: Any) -> None:
    settings.MAX_UPLOAD_MB = 1
    (error,) = upload(owner, **pair(weights=bytes(2**20)))
    assert error == "Too large: the files are larger than 1 MB, the limit of this site."


def test_a_prompt_that_never_invokes_an_alora_is_mended_before_its_files_are_taken(
    owner: Client, settings: Any
) -> None:
    make_tokenizer(settings.MODELS_DIR / settings.BASE_NAME)
    config = json.dumps(lora_config(alora_invocation_tokens=[1])).encode()
    (said,) = upload(owner, **pair(config))
    assert "does not hold what invokes it, '<|start|>'" in said
    assert upload(owner, **pair(config), template="<|start|>" + TEMPLATE) == []
    assert AdapterVersion.objects.get().status == AdapterVersion.Status.VALIDATING


def test_uploading_needs_the_permission(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("visitor", is_staff=True))
    assert client.post(UPLOAD, form(**pair())).status_code == 403
    assert Client().post(UPLOAD, form(**pair())).status_code == 302
    assert not AdapterVersion.objects.exists()


def test_the_owner_of_an_upload_cannot_take_steps_without_permission(owner: Client, tmp_path: Path) -> None:
    upload(owner, **pair())
    owner.post(
        reverse("admin:catalogue_adapterversion_changelist"),
        {"action": "retire", "_selected_action": [AdapterVersion.objects.get().pk]},
    )
    assert AdapterVersion.objects.get().status == "validating"


def test_a_repeated_import_of_an_upload_is_the_same_version(owner: Client, tmp_path: Path) -> None:
    from django.core.management import call_command

    upload(owner, **pair(), slug="emotion")
    call_command("import_adapter", str(write_adapter(tmp_path / "emotion")), "--no-wait")
    assert AdapterVersion.objects.count() == 1
