"""A blend through the admin's form: with a gate's file or by Arrow, and every mistake as a sentence beside its line."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from inference.wire.protocol import GateRef, Probe
from loraland.catalogue import store
from loraland.catalogue.blends import gate_of, parts_of
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.tasks import validate_version
from tests.loraland.gate_files import flow_gate, gate_bytes, ramole_gate

Part = Callable[..., AdapterVersion]
Prove = Callable[..., AdapterVersion]
UPLOAD = "/admin/catalogue/adapterversion/add/?kind=blend"


@pytest.fixture(autouse=True)
def _site(adapter_store: Path, probes: list[Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    """The examination at once, where a Celery worker would do it."""
    monkeypatch.setattr(validate_version, "delay_on_commit", validate_version)


@pytest.fixture
def owner(db: None, client: Client, grant: Callable[..., None]) -> Client:
    user = User.objects.create_user("owner", is_staff=True)
    grant(user, AdapterVersion, "add", "view", "delete")
    grant(user, Adapter, "view")
    client.force_login(user)
    return client


@pytest.fixture
def two(part: Part) -> list[AdapterVersion]:
    return [part("topic"), part("emotion")]


def send(client: Client, **changes: Any) -> dict[str, list[str]]:
    """Send the form; what it complains of by the names of its fields, nothing when it was taken."""
    data = {"name": "Two at once", "publish_when_ready": "on", "parts": ["topic", "", "emotion", ""]}
    response = client.post(UPLOAD, {key: value for key, value in (data | changes).items() if value is not None})
    if response.status_code == 302:
        return {}
    errors: dict[str, list[str]] = response.context["adminform"].form.errors
    return errors


def gate(data: bytes, name: str = "gate.safetensors") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, data)


def of_flow(versions: list[AdapterVersion], **changes: Any) -> bytes:
    digests = [each.digest for each in versions]
    return gate_bytes(flow_gate(digests), **({"parts": digests} | changes))


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_parts_by_name_make_an_arrow_blend(owner: Client, two: list[AdapterVersion], probes: list[Probe]) -> None:
    page = owner.get(UPLOAD).content.decode()
    assert '<option value="topic">Topic</option>' in page
    assert send(owner, top_k="1", temperature="0.5") == {}
    version = AdapterVersion.objects.get(adapter__slug="two-at-once")
    assert gate_of(version) == GateRef("arrow", 1, 0.5)
    assert parts_of(version) == two
    assert (version.status, version.template) == ("validating", two[0].template)
    assert probes[-1].adapter == version.ref


def test_a_gate_finds_its_parts_by_their_digests(owner: Client, two: list[AdapterVersion]) -> None:
    assert send(owner, gate_file=gate(of_flow(two[::-1])), parts=[]) == {}
    version = AdapterVersion.objects.get(adapter__slug="two-at-once")
    assert (version.method, parts_of(version)) == ("LoRA-Flow", two[::-1])


def test_a_gate_of_ramole_weighs_what_the_form_names_and_a_zip_brings_its_card(
    owner: Client, two: list[AdapterVersion]
) -> None:
    card = b'name = "From a card"\nsummary = "Both."\n'
    card += b'[prompt]\ntemplate = "Now {what}:"\n[[prompt.field]]\nname = "what"\n'
    data = gate_bytes(ramole_gate(), kind="ramole")
    archive = zipped({"mine/gate.safetensors": data, "mine/card.toml": card})
    assert send(owner, gate_file=gate(archive, "mine.zip"), name="", template="") == {}
    version = AdapterVersion.objects.get(adapter__slug="from-a-card")
    assert (version.method, version.template, version.adapter.summary) == ("RAMoLE", "Now {what}:", "Both.")


def test_a_new_version_of_a_blend_takes_its_place(owner: Client, two: list[AdapterVersion], proven: Prove) -> None:
    send(owner, template="Mine {text}:")
    first = proven(AdapterVersion.objects.get(adapter__slug="two-at-once"))
    assert send(owner, name="", adapter=first.adapter.slug, top_k="1") == {}
    newer = proven(first.adapter.versions.first())
    first.refresh_from_db()
    assert (first.status, newer.status, newer.template) == ("retired", "published", "Mine {text}:")
    taken = owner.get("/admin/catalogue/adapterversion/add/").context["adminform"].form.fields["adapter"].queryset
    assert [adapter.slug for adapter in taken] == ["emotion", "topic"]


ONE = ["topic"]
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "one part": ({"parts": ONE}, "parts", "1 part is named; a blend is of 2 to 8"),
    "nobody": ({"parts": ["topic", "nobody"]}, "parts", "No adapter called 'nobody' is published"),
    "one twice": ({"parts": ONE * 2}, "parts", "An adapter is named twice; name it once."),
    "DoRA": ({"parts": ["topic", "dora"]}, "parts", "is a DoRA"),
    "aLoRA": ({"parts": ["topic", "alora"]}, "parts", "is an aLoRA"),
    "too large": ({"parts": ["topic", "large"]}, "parts", "add up to 68; at most 64"),
    "elsewhere": ({"parts": ["topic", "elsewhere"]}, "parts", "Adapters of different bases"),
    "draft": ({"parts": ["topic", "draft"]}, "parts", "No adapter called 'draft' is published"),
    "no name": ({"name": ""}, "name", "Give it a name"),
    "taken": ({"name": "Topic"}, "slug", "topic exists already"),
    "no temperature": ({"temperature": "0"}, "temperature", "greater than or equal to"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_a_blend_is_said_beside_its_line(
    what: str, owner: Client, publish: Part, other_base: str
) -> None:
    for slug, digest, fields in (
        ("topic", "a", {"rank": 8}),
        ("emotion", "b", {"rank": 8}),
        ("dora", "c", {"config": {"use_dora": True}}),
        ("alora", "d", {"config": {"alora_invocation_tokens": [1, 2]}}),
        ("large", "e", {"rank": 60}),
        ("elsewhere", "f", {"base": other_base}),
        ("draft", "0", {"status": "ready", "publish_when_ready": False}),
    ):
        publish(slug, digest, **{"template": "Say {text}:", "fields": [{"name": "text"}], **fields})
    changes, field, said = BAD[what]
    errors = send(owner, **changes)
    assert said in " ".join(errors[field])
    assert not AdapterVersion.objects.exclude(gate={}).exists()


def test_parts_that_are_not_here_are_named_by_their_digests(owner: Client, two: list[AdapterVersion]) -> None:
    strange = "9" * 64
    errors = send(owner, gate_file=gate(of_flow(two, parts=[two[0].digest, strange])), parts=[])
    assert errors["parts"] == [
        f"No adapter here has the digest {strange}, which the gate was trained for; upload that adapter first."
    ]
    two[1].retire()
    AdapterVersion.objects.filter(pk=two[1].pk).update(status="ready", published_at=None, publish_when_ready=False)
    (said,) = send(owner, gate_file=gate(of_flow(two)), parts=[])["parts"]
    assert said.startswith(f"{two[1]}, which the gate was trained for, was never published; publish it")


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"parts": ["topic", "emotion"]}, "parts", "names its 2 parts by itself; leave them out here"),
        ({"top_k": "2"}, "top_k", "has its own settings, and they hold"),
        ({"temperature": "2"}, "temperature", "has its own settings, and they hold"),
    ],
)
def test_what_the_gates_file_says_cannot_be_said_otherwise(
    changes: dict[str, Any], field: str, said: str, owner: Client, two: list[AdapterVersion]
) -> None:
    assert said in " ".join(send(owner, **{"gate_file": gate(of_flow(two)), "parts": [], **changes})[field])


def test_a_gate_for_another_base_waits_for_its_tick_and_its_file_is_kept(
    owner: Client, two: list[AdapterVersion]
) -> None:
    data = {"name": "Two at once", "publish_when_ready": "on", "parts": []}
    response = owner.post(UPLOAD, data | {"gate_file": gate(of_flow(two, base="owner/Llama-3.2-1B"))})
    form = response.context["adminform"].form
    assert "gate.safetensors names the base owner/Llama-3.2-1B" in form.errors["base_confirmed"][0]
    assert "Your files are here" in form.fields["gate_file"].help_text
    assert send(owner, parts=[], held=form.data["held"], base_confirmed="on") == {}
    version = AdapterVersion.objects.get(adapter__slug="two-at-once")
    assert (version.base_confirmed, version.named_base) == (True, "owner/Llama-3.2-1B")
    assert version.base_doubt.startswith("gate.safetensors names the base owner/Llama-3.2-1B")


CONVERT = "python -m inference.adapters.convert GATE.pt"
FILES = {
    "an old pickle": (pickle.dumps({"a": 1}), "gate.pt", CONVERT),
    "a pickle of torch": (zipped({"gate/data.pkl": b"x", "gate/version": b"3"}), "gate.pt", CONVERT),
    "an adapter": (zipped(dict.fromkeys(store.FILES, b"x")), "a.zip", "choose it here as a part"),
    "no gate in it": (zipped({"a.txt": b"x"}), "a.zip", "The .zip lacks gate.safetensors"),
    "two gates": (zipped(dict.fromkeys(["a/gate.safetensors", "b/gate.safetensors"], b"x")), "a.zip", "several gates"),
    "words": (b"these are only words", "gate.safetensors", "is no gate that is read"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_gate_is_refused_with_the_way_out(
    what: str, owner: Client, two: list[AdapterVersion]
) -> None:
    data, name, said = FILES[what]
    assert said in " ".join(send(owner, gate_file=gate(data, name))["gate_file"])


def test_a_gate_in_the_form_for_adapters_is_shown_the_other_door(owner: Client) -> None:
    archive = SimpleUploadedFile("a.zip", zipped({"gate.safetensors": b"x"}))
    response = owner.post("/admin/catalogue/adapterversion/add/", {"name": "A", "archive": archive})
    assert "“Upload a blend” in the admin takes it" in response.context["adminform"].form.errors["archive"][0]


def test_a_part_cannot_be_deleted_and_the_page_names_the_blend(
    owner: Client, two: list[AdapterVersion], proven: Prove
) -> None:
    send(owner)
    proven(AdapterVersion.objects.get(adapter__slug="two-at-once"))
    two[0].reject(["It is damaged."])
    page = owner.get(f"/admin/catalogue/adapterversion/{two[0].pk}/delete/").content.decode()
    assert f"{two[0]} in two-at-once (Two at once)" in page
    owner.post(f"/admin/catalogue/adapterversion/{two[0].pk}/delete/", {"post": "yes"})
    assert AdapterVersion.objects.filter(pk=two[0].pk).exists()
    assert store.kept(two[0].digest).exists()


def test_retiring_a_part_tells_the_blends_that_go_on(
    owner: Client, two: list[AdapterVersion], proven: Prove, grant: Callable[..., None]
) -> None:
    send(owner)
    version = proven(AdapterVersion.objects.get(adapter__slug="two-at-once"))
    grant(User.objects.get(), AdapterVersion, "change")
    chosen = {"action": "retire", "_selected_action": [str(two[0].pk)]}
    page = owner.post("/admin/catalogue/adapterversion/", chosen, follow=True).content.decode()
    assert f"goes on as a part of {version}." in page


def test_the_admins_pages_link_a_blend_and_its_parts(owner: Client, two: list[AdapterVersion], proven: Prove) -> None:
    send(owner, top_k="1")
    version = proven(AdapterVersion.objects.get(adapter__slug="two-at-once"))
    page = owner.get(f"/admin/catalogue/adapterversion/{version.pk}/change/").content.decode()
    assert "Arrow, the best 1 at each token, temperature 1" in page
    assert f'{two[0].pk}/change/">{two[0]}</a> Published' in page
    of_part = owner.get(f"/admin/catalogue/adapterversion/{two[0].pk}/change/").content.decode()
    assert f'{version.pk}/change/">{version}</a> Published' in of_part
