"""Where several bases are served: an adapter is for the one whose shapes it has, or whose name, or nobody can tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from inference.wire.protocol import Probe
from loraland import inference_client
from loraland.bases import Base
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.tasks import validate_version
from tests.loraland.adapter_files import SMOLLM2, lora_config, lora_tensors, safetensors_bytes, write_adapter
from tests.loraland.catalogue.upload.imports import imported

OURS = "SmolLM2-135M-Instruct"
DEEPER = {**SMOLLM2, "num_hidden_layers": 40}
"""A base that has layers which ours lacks; a layer that both have fits both."""
UPLOAD = "/admin/catalogue/adapterversion/add/"
Prove = Callable[[AdapterVersion], AdapterVersion]


@pytest.fixture(autouse=True)
def sent(
    db: None, adapter_store: Path, other_base: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Probe, Base]]:
    """The probes that were sent, each with the base whose workers it went to."""
    config = settings.MODELS_DIR / other_base / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(DEEPER))
    probes: list[tuple[Probe, Base]] = []
    monkeypatch.setattr(inference_client, "submit_probe", lambda probe, base: probes.append((probe, base)))
    monkeypatch.setattr(validate_version, "delay_on_commit", validate_version)
    return probes


def adapter(directory: Path, named: str | None, layer: int = 0, name: str = "mood", seed: int = 0) -> Path:
    config = lora_config(base_model_name_or_path=named, layers_to_transform=[layer])
    return write_adapter(directory / name, config=config, tensors=lora_tensors(layers=(layer,), seed=seed))


def bases_of(slug: str) -> tuple[str, str]:
    version = AdapterVersion.objects.select_related("adapter").filter(adapter__slug=slug).latest("created")
    return version.adapter.base, version.status


def test_the_shapes_find_the_base_whatever_the_config_names(
    tmp_path: Path, other_base: str, sent: list[tuple[Probe, Base]]
) -> None:
    imported(adapter(tmp_path, "/home/me/final", layer=35))
    assert bases_of("mood") == (other_base, "validating")
    assert [base.name for _, base in sent] == [other_base], "its workers prove it"


@pytest.mark.parametrize("named", ["owner/Tiny-Llama", "unsloth/tiny-llama-unsloth-bnb-4bit", "x/Tiny-Llama-GGUF"])
def test_where_two_fit_the_config_s_name_decides_copies_of_the_model_included(
    tmp_path: Path, other_base: str, named: str
) -> None:
    imported(adapter(tmp_path, named))
    assert bases_of("mood") == (other_base, "validating")


def test_the_other_of_the_two_is_found_by_its_name_as_well(tmp_path: Path) -> None:
    imported(adapter(tmp_path, "HuggingFaceTB/SmolLM2-135M-Instruct"))
    assert bases_of("mood") == (OURS, "validating")


@pytest.mark.parametrize(("named", "told"), [(None, "names none"), ("/home/me/final", "names /home/me/final")])
def test_where_two_fit_and_none_is_named_it_is_asked_and_the_word_on_the_command_line_is_taken(
    tmp_path: Path, other_base: str, named: str | None, told: str
) -> None:
    said = imported(adapter(tmp_path, named))
    assert f"Its shapes are those of {OURS} and {other_base} alike, and adapter_config.json {told}." in said
    assert "--base NAME of import_adapter" in said
    imported(adapter(tmp_path, named), "--base", "owner/tiny-llama")
    assert bases_of("mood") == (other_base, "validating")


def test_another_owner_s_model_of_the_same_name_is_not_taken_for_the_base(tmp_path: Path) -> None:
    said = imported(adapter(tmp_path, None), "--base", "another/Tiny-Llama")
    assert "--base another/Tiny-Llama is another model than owner/Tiny-Llama, which is served; write" in said
    assert not AdapterVersion.objects.exists()


def test_a_base_that_is_said_and_does_not_fit_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    said = imported(adapter(tmp_path, OURS, layer=35), "--base", OURS, "--slug", "deep")
    assert bases_of("deep")[0] != OURS, "the shapes decide: " + said


def test_an_adapter_that_is_here_keeps_its_base(tmp_path: Path, proven: Prove, other_base: str) -> None:
    imported(adapter(tmp_path, OURS))
    proven(AdapterVersion.objects.select_related("adapter").get())
    later = adapter(tmp_path / "later", OURS, seed=1)
    assert f"mood is an adapter for {OURS}; import these weights under another --slug" in imported(
        later, "--base", other_base
    )
    deeper = imported(adapter(tmp_path / "deeper", other_base, layer=35, seed=2))
    assert f"mood is an adapter for {OURS}, and these weights are for {other_base}" in deeper
    assert Adapter.objects.get().base == OURS


def test_the_form_asks_which_base_is_meant(tmp_path: Path, admin_client: Client, other_base: str) -> None:
    def sent(**more: str) -> Any:
        files = {
            "config_file": SimpleUploadedFile(
                "adapter_config.json", json.dumps(lora_config(base_model_name_or_path=None)).encode()
            ),
            "weights_file": SimpleUploadedFile("adapter_model.safetensors", safetensors_bytes(lora_tensors())),
        }
        return admin_client.post(UPLOAD, {**files, "name": "Mood", "chats_freely": "on", **more})

    assert f"Its shapes are those of {OURS} and {other_base} alike" in sent().content.decode()
    assert not AdapterVersion.objects.exists()
    sent(base=other_base, publish_when_ready="on")
    assert bases_of("mood") == (other_base, "validating")


def test_adapters_of_both_are_served_and_of_a_third_listed(
    tmp_path: Path, proven: Prove, other_base: str, settings: Any
) -> None:
    imported(adapter(tmp_path, OURS))
    imported(adapter(tmp_path, other_base, name="deep", layer=35))
    for version in AdapterVersion.objects.select_related("adapter"):
        proven(version)
    assert set(Adapter.objects.served().values_list("slug", flat=True)) == {"mood", "deep"}
    settings.BASE_MODELS = (settings.BASE_MODEL,)
    assert list(Adapter.objects.served().values_list("slug", flat=True)) == ["mood"]
    assert Adapter.objects.get(slug="deep").unserved_reason == f"Made for {other_base}; this site serves {OURS}."


def test_one_that_fits_none_is_told_so(tmp_path: Path, other_base: str) -> None:
    said = imported(adapter(tmp_path, OURS, layer=50))
    assert f"Nor does it fit {other_base}." in said
    assert bases_of("mood") == (OURS, "rejected")
