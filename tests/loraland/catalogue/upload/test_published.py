"""The adapters published beside the paper: offered in the catalogue, fetched by a command or by one click."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from inference.wire.protocol import Probe
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload import hub
from loraland.catalogue.upload.hub import HubError, Listing
from loraland.catalogue.upload.model_card import template_of
from loraland.paper.published import find, published
from loraland.paper.table import tasks
from tests.loraland.adapter_files import write_adapter

README = """---
library_name: peft
---
Description: Does the sentence hold the answer?
\\-\\-\\-
Try it!

---
Sample input: Say 1 or 0.\\n\\n### Question: Who is #1?\\n\\n### Sentence: C# came later.\\n\\n### Answer:
---
Sample output: 0
---
"""
TEMPLATE = "Say 1 or 0.\n\n### Question: {question}\n\n### Sentence: {sentence}\n\n### Answer:"


def test_27_are_known_and_those_of_the_table_have_its_scores() -> None:
    assert len(published()) == len({entry.repository for entry in published()}) == 27
    assert {entry.repository for entry in published() if entry.row is None} == {
        "predibase/cnn",
        "predibase/agnews_explained",
        "predibase/drop_explained",
    }
    assert all(entry.task in tasks() for entry in published() if entry.task)


def test_the_sample_of_a_readme_becomes_a_template_with_a_field_for_each_filled_part() -> None:
    assert template_of(README) == TEMPLATE
    fenced = README.replace("\\n", "\n").replace("Sample input:", "**Sample input:**\n```\n")
    assert template_of(fenced.replace("Answer:", "Answer:\n```")) == TEMPLATE


def test_text_after_the_last_part_stays() -> None:
    readme = "Sample input: Explain.\n\n### Article: It rained.\n\n### JSON Response\n---\n"
    assert template_of(readme) == "Explain.\n\n### Article: {article}\n\n### JSON Response"


@pytest.mark.parametrize("readme", ["", "Sample input: no parts\n---\n", README.replace("Sentence", "Question")])
def test_a_sample_that_cannot_be_told_apart_gives_no_template(readme: str) -> None:
    assert template_of(readme) == ""


@pytest.mark.django_db
def test_the_catalogue_offers_those_that_are_not_here_with_the_papers_scores(
    client: Client, publish: Callable[..., AdapterVersion]
) -> None:
    html = client.get("/").content.decode()
    assert "27 more on the hub, for Mistral-7B" in html
    assert "rouge: base 4, fine-tuned 48 of 100" in html
    publish("predibase-viggo", base="Mistral-7B-v0.1")
    assert "26 more on the hub" in client.get("/").content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize(("query", "count"), [("?q=coding", 2), ("?q=predibase+viggo", 1), ("?q=mistral", 27)])
def test_offers_are_searched_and_filtered_like_cards(client: Client, query: str, count: int) -> None:
    assert client.get(f"/{query}").content.decode().count('class="offer ') == count


class LocalHub:
    """A hub with one adapter, whose README is `readme`."""

    def __init__(self, directory: Path, readme: str = README) -> None:
        self.directory = directory
        (directory / hub.README).write_text(readme)

    def listing(self, repository: str) -> Listing:
        if repository != "predibase/glue_qnli":
            raise HubError(f"The hub does not tell of {repository}: no network")
        return Listing("0" * 40, {path.name: path.stat().st_size for path in self.directory.iterdir()})

    def download(self, repository: str, revision: str, name: str, directory: Path) -> None:
        shutil.copy(self.directory / name, directory / name)


@pytest.fixture
def local(
    tmp_path: Path, adapter_store: Path, monkeypatch: pytest.MonkeyPatch, probes: list[Probe], db: None
) -> LocalHub:
    directory = tmp_path / "qnli"
    write_adapter(directory)
    found = LocalHub(directory)
    monkeypatch.setattr(hub, "HuggingFaceHub", lambda: found)
    return found


@pytest.mark.usefixtures("local")
def test_the_command_fetches_one_with_its_prompt_and_what_the_paper_says(tmp_path: Path) -> None:
    call_command("import_adapter", "predibase/glue_qnli", "--no-wait")
    version = AdapterVersion.objects.select_related("adapter").get()
    assert (version.template, version.field_names) == (TEMPLATE, ("question", "sentence"))
    assert (version.adapter.slug, version.score) == ("predibase-glue_qnli", {})
    assert "reports 53.3 of 100 for the base, 93.1 fine-tuned" in version.adapter.description


def test_without_a_prompt_in_the_readme_it_is_refused_until_the_owner_gives_one(
    local: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (local.directory / hub.README).write_text("No sample here.")
    with pytest.raises(CommandError):
        call_command("import_adapter", "predibase/glue_qnli", "--no-wait")
    assert "shows no prompt that can be told apart" in capsys.readouterr().err
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Q: {question}\nA:\n")
    call_command("import_adapter", "predibase/glue_qnli", "--no-wait", "--template", str(prompt))
    assert AdapterVersion.objects.get().template == "Q: {question}\nA:"


def test_a_prompt_without_a_field_and_one_that_is_not_there_are_refused(
    local: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Just answer:")
    with pytest.raises(CommandError):
        call_command("import_adapter", "predibase/glue_qnli", "--template", str(prompt))
    assert "The template has no field" in capsys.readouterr().err
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("import_adapter", "predibase/glue_qnli", "--template", str(tmp_path / "nothing"))
    assert not AdapterVersion.objects.exists()


@pytest.fixture
def staff(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("owner", password="x"))
    return client


ADDRESS = "/admin/catalogue/adapterversion/published/"


def test_one_click_in_the_admin_fetches_one(
    staff: Client,
    local: LocalHub,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Callable[..., Any],
) -> None:
    sent: list[int] = []
    monkeypatch.setattr("loraland.catalogue.admin.validate_version.delay", sent.append)
    assert staff.get(ADDRESS).content.decode().count("<form") >= 27
    with django_capture_on_commit_callbacks(execute=True):
        html = staff.post(ADDRESS, {"repository": "predibase/glue_qnli"}, follow=True).content.decode()
    version = AdapterVersion.objects.get()
    assert "Fetched predibase/glue_qnli" in html
    assert (version.template, version.created_by.username, sent) == (TEMPLATE, "owner", [version.pk])
    assert "Fetch again" in staff.get(ADDRESS).content.decode()


@pytest.mark.usefixtures("local")
def test_what_the_hub_does_not_give_is_told_and_strangers_to_the_list_are_not_fetched(staff: Client) -> None:
    html = staff.post(ADDRESS, {"repository": "predibase/viggo"}, follow=True).content.decode()
    assert "no network" in html
    assert staff.post(ADDRESS, {"repository": "someone/else"}).status_code == 404
    assert not AdapterVersion.objects.exists()


def test_the_list_is_for_those_who_may_upload(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("reader", is_staff=True))
    assert client.get(ADDRESS).status_code == 403
    assert find("predibase/viggo") is not None
