"""Activated adapters (aLoRA) on the site: what invokes one is told in words, and its own prompt must hold it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from inference.model.tokenizer import Tokenizer
from loraland.catalogue.composition import named
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload.prompt_form import PromptForm
from loraland.refusal import Refused
from tests.inference.engines import make_tokenizer
from tests.loraland.adapter_files import lora_config, write_adapter

JUDGE = "<|start|>judge"
Examined = Callable[..., AdapterVersion]
Publish = Callable[..., AdapterVersion]


@pytest.fixture
def invocation(adapter_store: Path, settings: Any) -> list[int]:
    """The tokens that invoke, by the tokenizer of the base, which is here."""
    return Tokenizer(make_tokenizer(settings.MODELS_DIR / settings.BASE_NAME)).encode(JUDGE)


def upload(examined: Examined, directory: Path, invocation: list[int], template: str = "") -> AdapterVersion:
    write_adapter(directory, config=lora_config(alora_invocation_tokens=invocation))
    fields = [{"name": "text", "label": "Text", "rows": 3}] if template else []
    return examined(directory, "judge", template=template, fields=fields)


def test_an_activated_adapter_is_taken_with_what_invokes_it(
    examined: Examined, tmp_path: Path, invocation: list[int]
) -> None:
    version = upload(examined, tmp_path / "judge", invocation, "{text}" + JUDGE)
    assert (version.status, version.invocation) == ("validating", tuple(invocation))
    assert version.remarks == [
        f"It is an aLoRA: active from the last '{JUDGE}' of a prompt on; without that the base answers."
    ]


def test_one_whose_own_prompt_never_invokes_it_is_refused(
    examined: Examined, tmp_path: Path, invocation: list[int]
) -> None:
    version = upload(examined, tmp_path / "judge", invocation, "{text} Is it kind?")
    assert version.status == "rejected"
    assert version.reasons == [
        f"Its prompt does not hold what invokes it, '{JUDGE}', so the base alone would answer; write that into the "
        "template where the adapter is to begin."
    ]


def test_one_that_chats_is_told_of_where_no_chat_invokes_it(
    examined: Examined, tmp_path: Path, invocation: list[int]
) -> None:
    (remark,) = upload(examined, tmp_path / "judge", invocation).remarks
    assert "No chat on SmolLM2-135M-Instruct holds it; give it a prompt that does" in remark


def test_one_that_every_chat_invokes_needs_no_such_word(
    examined: Examined, tmp_path: Path, adapter_store: Path, settings: Any
) -> None:
    tokenizer = Tokenizer(make_tokenizer(settings.MODELS_DIR / settings.BASE_NAME))
    version = upload(examined, tmp_path / "judge", tokenizer.encode("<|start|>assistant\n"))
    assert [remark for remark in version.remarks if "No chat" in remark] == []


def test_without_the_bases_tokenizer_its_tokens_are_told(
    examined: Examined, tmp_path: Path, adapter_store: Path
) -> None:
    version = upload(examined, tmp_path / "judge", [4, 5], "{text}")
    assert version.status == "validating"
    assert "active from the last tokens 4, 5 of a prompt on" in version.remarks[0]


def test_a_prompt_is_not_mended_to_one_that_never_invokes(
    examined: Examined, tmp_path: Path, invocation: list[int]
) -> None:
    version = upload(examined, tmp_path / "judge", invocation, "{text}" + JUDGE)
    assert PromptForm({"template": "Kind? {text}" + JUDGE}, instance=version).is_valid()
    form = PromptForm({"template": "Kind? {text}"}, instance=version)
    assert "does not hold what invokes it" in str(form.errors["template"])


def test_its_page_says_what_invokes_it(client: Client, publish: Publish, invocation: list[int]) -> None:
    publish("judge", config={"alora_invocation_tokens": invocation})
    publish("plain", digest="b")
    page = client.get("/adapters/judge/").content.decode()
    assert "active from the last <code>&lt;|start|&gt;judge</code> of a prompt on" in page
    assert "aLoRA" not in client.get("/adapters/plain/").content.decode()


def test_it_is_no_part_of_a_sum(publish: Publish, invocation: list[int]) -> None:
    publish("judge", config={"alora_invocation_tokens": invocation})
    publish("plain", digest="b")
    with pytest.raises(Refused, match="is an aLoRA, which cannot be added to others"):
        named("plain+0.5*judge", AdapterVersion.objects.shown())
