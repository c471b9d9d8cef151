"""Adapters as people have them: a folder deeper, in parts, as a pickle, several at once, packed on every system."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from django.test import Client

from inference.wire.protocol import Probe
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload.archive import ArchiveRefused, read_archive
from loraland.catalogue.upload.hub import HubError, Listing, fetch
from tests.loraland.adapter_files import lora_config, lora_tensors, safetensors_bytes, write_adapter
from tests.loraland.catalogue.upload.imports import imported

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TRAINING = (
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "tokenizer.json", "README.md"),
    *("runs/Nov1/events.out.tfevents.1.host", "checkpoint-500/" + CONFIG, "checkpoint-500/" + WEIGHTS),
)
FORMS = {
    "a pickle": ([CONFIG, "adapter_model.bin"], "as a pickle (adapter_model.bin)", "inference.adapters.convert FOLDER"),
    "parts": ([CONFIG, "adapter_model-00001-of-00002.safetensors"], "weights in parts", "inference.adapters.convert"),
    "two adapters": (["a/" + CONFIG, "a/" + WEIGHTS, "b/" + CONFIG, "b/" + WEIGHTS], "several adapters: a/, b/", ""),
    "weights apart": (["a/" + CONFIG, "b/" + WEIGHTS], "apart: a/adapter_config.json, b/adapter_model", "one folder"),
    "a whole model": (["config.json", "model.safetensors"], "a whole model (model.safetensors)", "Only adapters"),
    "an adapter of MLX": (
        ["adapters.safetensors"],
        "adapters.safetensors: an adapter of MLX",
        "inference.adapters.convert",
    ),
    "another name": ([CONFIG, "adapter_model (1).safetensors"], "weights under another name", "call the file adapter_"),
    "a zip in a zip": (["adapter.zip"], "another .zip in it (adapter.zip)", "unpack that"),
    "nothing": ([], "lacks adapter_config.json", "lacks adapter_model.safetensors"),
}


def zipped(*names: str) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo()
            entry.filename = entry.orig_filename = name  # as it is given, backslashes too
            archive.writestr(entry, name.encode())
    return buffer


class Repository:
    def __init__(self, names: list[str]) -> None:
        self.names = names

    def listing(self, repository: str) -> Listing:
        return Listing("0" * 40, dict.fromkeys(self.names, 1))

    def download(self, repository: str, revision: str, name: str, directory: Path) -> None:
        raise AssertionError("nothing is fetched of what is refused")


@pytest.mark.parametrize(("names", "told", "right"), FORMS.values(), ids=list(FORMS))
@pytest.mark.django_db
def test_every_door_says_what_lies_there(names: list[str], told: str, right: str, tmp_path: Path) -> None:
    folder = tmp_path / "mood"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    said = imported(folder)
    with pytest.raises(ArchiveRefused) as of_zip:
        read_archive(zipped(*names))
    with pytest.raises(HubError) as of_hub:
        fetch(Repository(names), "me/mood", tmp_path)
    for text in (said, str(of_zip.value), str(of_hub.value)):
        assert told in text
        assert right in text
        assert not ("lacks" in text and {CONFIG, "adapter_model.bin"} <= set(names))


@pytest.mark.django_db
def test_a_folder_deeper_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out" / "deeper" / "mood")
    assert f"in deeper/mood/: give {tmp_path}/out/deeper/mood instead." in imported(tmp_path / "out")
    with pytest.raises(HubError, match="in sub/: download it, and import that folder"):
        fetch(Repository([f"sub/{CONFIG}", f"sub/{WEIGHTS}"]), "me/mood", tmp_path)


@pytest.mark.parametrize("home", ["", "mood/", "a/b/mood/", "a\\mood\\"], ids=["top", "folder", "deep", "Windows"])
def test_a_zip_of_a_training_is_read_where_the_adapter_lies(home: str) -> None:
    extra = [home + name for name in TRAINING]
    marks = ["__MACOSX/._x", ".DS_Store", f"{home}.DS_Store", "a/"]
    contents = read_archive(zipped(home + CONFIG, home + WEIGHTS, *extra, *marks))
    assert b"".join(contents.files[CONFIG]) == (home + CONFIG).replace("\\", "/").encode() or home
    assert sorted(contents.files) == [CONFIG, WEIGHTS]
    assert sorted(contents.ignored) == sorted(TRAINING)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "C:\\x", "..\\x", "\\x", "a\\..\\x"])
def test_a_name_that_leaves_its_folder_is_refused_whatever_it_is(name: str) -> None:
    with pytest.raises(ArchiveRefused, match="stay inside its folder"):
        read_archive(zipped(CONFIG, WEIGHTS, name))


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"\x1f\x8b\x08" + bytes(40), "a .gz"), (bytes(257) + b"ustar" + bytes(60), "a .tar"), (b"Rar!\x1a", "a .rar")],
    ids=["gz", "tar", "rar"],
)
def test_another_packing_is_called_by_its_name(data: bytes, kind: str) -> None:
    with pytest.raises(ArchiveRefused, match=f"The file is {kind}.*as a .zip"):
        read_archive(io.BytesIO(data))


@pytest.mark.usefixtures("adapter_store")
def test_the_shell_takes_a_zip_too_and_tells_what_it_does_not_read(
    client: Client, db: None, probes: list[Probe], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "Mood.ZIP", "w") as archive:
        archive.writestr(f"x/{CONFIG}", json.dumps(lora_config()))
        archive.writestr(f"x/{WEIGHTS}", safetensors_bytes(lora_tensors()))
        archive.writestr("x/optimizer.pt", b"not read")
    assert "These files beside the adapter are not read: optimizer.pt." in imported(tmp_path / "Mood.ZIP")
    assert AdapterVersion.objects.get().adapter.slug == "Mood"
