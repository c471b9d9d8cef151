"""`manage.py import_blend`: a folder of a gate's training, a .zip of it, parts by Arrow, and refusals that are told."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from inference.wire.protocol import GateRef
from loraland.catalogue.blends import gate_of, parts_of
from loraland.catalogue.models import AdapterVersion
from tests.loraland.gate_files import flow_gate, gate_bytes, ramole_gate, write_gate

Part = Callable[..., AdapterVersion]


@pytest.fixture
def two(part: Part) -> list[AdapterVersion]:
    return [part("topic"), part("emotion")]


def imported(*arguments: object) -> str:
    """What the import says to whoever looks at its errors."""
    err = io.StringIO()
    try:
        call_command("import_blend", *map(str, arguments), "--no-wait", stdout=io.StringIO(), stderr=err)
    except CommandError as error:
        err.write(str(error))
    return err.getvalue()


def gate_of_two(tmp_path: Path, two: list[AdapterVersion], card: str = "", **more: str) -> Path:
    digests = [each.digest for each in two]
    folder = write_gate(tmp_path / "mixed", gate_bytes(flow_gate(digests), parts=digests, **more)).parent
    if card:
        (folder / "card.toml").write_text(card, encoding="utf-8")
    return folder


@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_folder_of_a_training_becomes_a_blend(is_zipped: bool, tmp_path: Path, two: list[AdapterVersion]) -> None:
    source = gate_of_two(tmp_path, two, 'name = "Both"\nsummary = "Two."\n')
    if is_zipped:
        source = Path(shutil.make_archive(str(tmp_path / "mixed"), "zip", tmp_path, "mixed"))
    assert imported(source) == ""
    version = AdapterVersion.objects.get(adapter__slug="mixed")
    assert (version.status, version.method, version.adapter.name) == ("validating", "LoRA-Flow", "Both")
    assert parts_of(version) == two
    assert imported(source) == ""
    assert AdapterVersion.objects.filter(adapter__slug="mixed").count() == 1
    assert os.listdir(settings.QUARANTINE_DIR) == []


def test_parts_alone_are_blended_by_arrow(two: list[AdapterVersion]) -> None:
    assert imported("--slug", "mine", "--parts", "emotion", "topic", "--top-k", "1") == ""
    version = AdapterVersion.objects.get(adapter__slug="mine")
    assert (gate_of(version), version.adapter.name) == (GateRef("arrow", 1), "Mine")


def test_a_router_takes_the_parts_that_are_named(tmp_path: Path, two: list[AdapterVersion]) -> None:
    folder = write_gate(tmp_path / "router", gate_bytes(ramole_gate(), kind="ramole")).parent
    assert imported(folder, "--parts", "topic", "emotion") == ""
    assert AdapterVersion.objects.get(adapter__slug="router").method == "RAMoLE"


def test_another_base_is_served_when_that_is_confirmed(tmp_path: Path, two: list[AdapterVersion]) -> None:
    folder = gate_of_two(tmp_path, two, base="owner/Llama-3.2-1B")
    assert "gate.safetensors names the base owner/Llama-3.2-1B" in imported(folder)
    assert "names the base" in imported(folder, "--confirm-base")
    assert [each.status for each in AdapterVersion.objects.filter(adapter__slug="mixed")] == ["validating", "rejected"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slug", "mine"], "No parts are named; a blend is of 2 to 8"),
        (["--slug", "mine", "--parts", "topic", "nobody"], "No adapter called 'nobody' is published"),
        (["--parts", "topic", "emotion"], "'' is no slug"),
        (["--slug", "base", "--parts", "topic", "emotion"], "base"),
        (["--slug", "mine", "--parts", "topic", "emotion", "--temperature", "0"], "--temperature is above 0"),
        (["--slug", "mine", "--parts", "topic", "emotion", "--temperature", "1e-9"], "The temperature is 1e-09; write"),
        (["nowhere", "--parts", "topic", "emotion"], "nowhere has no gate.safetensors"),
        (["--slug", "topic", "--parts", "topic", "emotion"], "The versions of topic are adapters"),
    ],
)
def test_what_is_no_blend_is_told(arguments: list[str], said: str, two: list[AdapterVersion]) -> None:
    assert said in imported(*arguments)
