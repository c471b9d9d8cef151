"""Base models from a store: whole or absent, on from where it was broken off, and the same numbers as before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from inference import fetch
from inference.config import EngineConfig, read_config
from inference.fetch import FetchError, fetch_model, find_model, main, publish_model
from inference.objects import download
from inference.objects.address import Address
from inference.objects.failures import StoreAway
from inference.objects.filesystem import filesystem
from inference.objects.store import ObjectStore
from tests.inference.checkpoints import load_base
from tests.object_server import ObjectServer

BASE = "owner/Tiny"


def host(directory: Path, address: Address, base: str = BASE) -> EngineConfig:
    """The config of a worker on a host with a disk of its own."""
    address = Address("MODEL_STORE", address.scheme, address.place, address.options)
    return EngineConfig(directory, "", base_model=base, model_store=address)


@pytest.fixture
def published(tiny_model: Path, tmp_path: Path, address: Address) -> Address:
    """The tiny model, as the first host has fetched it from the hub."""
    config = host(tmp_path / "first", address)
    place = config.models_dir / "Tiny"
    shutil.copytree(tiny_model, place)
    (place / "original").mkdir()
    (place / fetch.MARKER).write_text(json.dumps({"source": BASE}))
    assert "is published in MODEL_STORE=" in publish_model(config)
    assert "was there already" in publish_model(config)
    return address


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and path.name != fetch.MARKER
    }


def test_a_worker_of_another_host_finds_it(published: Address, tmp_path: Path, tiny_model: Path) -> None:
    config = host(tmp_path / "second", published)
    place = find_model(config)
    assert place == config.models_dir / "Tiny"
    assert files(place) == files(tiny_model)
    assert load_base(place).identity == load_base(tiny_model).identity
    assert [path.name for path in config.models_dir.glob(".*")] == [".Tiny.lock"]
    shutil.rmtree(tmp_path / "bucket", ignore_errors=True)
    assert find_model(config) == fetch_model(config) == place


def test_one_that_was_broken_off_goes_on(
    published: Address, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 20_000)
    real, starts, config = ObjectStore._read, [], host(tmp_path / "second", published)

    def read(self: ObjectStore, folder: str, entry: object, start: int, end: int) -> bytes:
        starts.append(start)
        if len(starts) == 10:
            raise StoreAway("the store MODEL_STORE=… does not answer")
        return real(self, folder, entry, start, end)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectStore, "_read", read)
    with pytest.raises(FetchError, match="does not answer"):
        find_model(config)
    assert not (config.models_dir / "Tiny").exists()
    before = len(starts)
    assert files(find_model(config)) == files(tiny_model)
    assert len(set(starts[:9]) & set(starts[before:])) < 9
    total = sum(-(-path.stat().st_size // 20_000) for path in tiny_model.iterdir())
    assert len(starts) - before < total


def test_what_was_broken_off_of_an_older_publication_is_not_among_its_files(
    published: Address, tmp_path: Path, tiny_model: Path
) -> None:
    config = host(tmp_path / "second", published)
    incoming = config.models_dir / ".Tiny.incoming"
    incoming.mkdir(parents=True)
    for name in ("model-00001-of-00002.safetensors", ".model-00001-of-00002.safetensors.chunks", fetch.SHAPE_ALONE):
        (incoming / name).write_bytes(b"older")
    assert files(find_model(config)) == files(tiny_model)


def test_damage_is_refused_and_leaves_nothing(published: Address, tmp_path: Path) -> None:
    objects = ObjectStore(published)
    (path,) = [path for path in objects._objects("Tiny") if path.endswith("-model.safetensors")]
    data = filesystem(published).cat_file(path)
    filesystem(published).pipe_file(path, data[:-1] + bytes([data[-1] ^ 1]))
    config = host(tmp_path / "second", published)
    with pytest.raises(
        FetchError, match=r"Tiny from MODEL_STORE=.*model\.safetensors has other bytes than were stored"
    ):
        find_model(config)
    assert [path.name for path in config.models_dir.iterdir()] == [".Tiny.lock"]


def test_a_disk_without_room_is_told_before(
    published: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "check_space", lambda path, size: _raise_full())
    with pytest.raises(FetchError, match=r"could not be copied: .*No room"):
        find_model(host(tmp_path / "second", published))


def _raise_full() -> None:
    raise OSError(28, "No room")


def test_another_owners_model_of_that_name_is_refused(published: Address, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"Tiny in MODEL_STORE=.* is owner/Tiny, not stranger/Tiny"):
        find_model(host(tmp_path / "second", published, "stranger/Tiny"))


def test_a_model_that_is_not_there_is_fetched_as_ever(published: Address, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"is not in .*run `python -m inference.fetch` first"):
        find_model(host(tmp_path / "second", published, "owner/Other"))


def test_a_host_of_the_site_has_what_it_reads_and_a_worker_there_all_of_it(
    published: Address, tmp_path: Path, tiny_model: Path
) -> None:
    config = host(tmp_path / "second", published)
    place = fetch_model(config, with_weights=False)
    assert (place / "config.json").exists()
    assert not list(place.glob("*.safetensors"))
    assert fetch_model(config, with_weights=False) == place
    assert files(find_model(config)) == files(tiny_model)


def test_what_is_published_may_be_replaced(published: Address, tmp_path: Path) -> None:
    config = host(tmp_path / "first", published)
    (config.models_dir / "Tiny" / "config.json").write_text('{"new": 1}')
    assert "was there already" in publish_model(config)
    assert "is published" in publish_model(config, replaces=True)
    assert b"new" in (find_model(host(tmp_path / "second", published)) / "config.json").read_bytes()


def test_the_command_publishes_and_says_what_is_missing(
    object_server: ObjectServer,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = object_server.new_store("MODEL_STORE")
    for name, value in {"VAR_DIR": str(tmp_path), "BASE_MODEL": str(tiny_model)}.items():
        monkeypatch.setenv(name, value)
    assert main(["--publish"]) == 1
    assert "MODEL_STORE names no store to publish to" in capsys.readouterr().err
    monkeypatch.setenv("MODEL_STORE", str(address))
    monkeypatch.setenv("MODEL_STORE_OPTIONS", address.options)
    assert main(["--publish"]) == 0
    assert f"is published in MODEL_STORE={address}" in capsys.readouterr().out
    monkeypatch.setenv("BASE_MODEL", tiny_model.name)
    monkeypatch.setenv("VAR_DIR", str(tmp_path / "elsewhere"))
    assert main([]) == 0
    assert files(find_model(read_config(os.environ))) == files(tiny_model)
