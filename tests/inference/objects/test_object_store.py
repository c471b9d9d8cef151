"""A folder in a store is whole or absent, written once, and what comes back is what was put there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.objects import download
from inference.objects.address import Address, read_address
from inference.objects.failures import Damaged, NotStored, StoreAway
from inference.objects.filesystem import CONNECT_SECONDS, READ_SECONDS, filesystem, own_options
from inference.objects.manifest import MANIFEST, manifest_of, parse_manifest
from inference.objects.store import ObjectStore
from tests.object_server import KEYS, ObjectServer
from tests.patience import PATIENCE

NAME = "a" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "given")


def written(directory: Path, text: str = "{}", size: int = 5000) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(text)
    (directory / "weights.bin").write_bytes(bytes(range(256)) * (size // 256 + 1))
    return directory


def put(objects: ObjectStore, folder: Path, **how: bool) -> bool:
    return objects.put(NAME, folder, ("config.json", "weights.bin"), **how)


def fetched(objects: ObjectStore, into: Path) -> dict[str, bytes]:
    into.mkdir(exist_ok=True)
    objects.fetch(NAME, into)
    return contents(into)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def objects_of(objects: ObjectStore, end: str = "") -> list[str]:
    return [path for path in objects._objects(NAME) if path.endswith(end)]


def change(objects: ObjectStore, end: str, how: Callable[[bytes], bytes]) -> None:
    """What a disk or a stranger does to an object."""
    (path,) = objects_of(objects, end)
    files = filesystem(objects.address)
    files.pipe_file(path, how(files.cat_file(path)))


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_what_is_put_comes_back(objects: ObjectStore, folder: Path, tmp_path: Path) -> None:
    assert not objects.has(NAME)
    assert put(objects, folder)
    assert objects.has(NAME)
    assert objects.is_sound(NAME)
    assert list(objects.folders()) == [NAME]
    assert fetched(objects, tmp_path / "got") == contents(folder)


def test_in_a_folder_a_manifest_is_as_readable_as_the_files(objects: ObjectStore, folder: Path, tmp_path: Path) -> None:
    if not objects.address.is_local:
        pytest.skip("a bucket has no modes")
    for replaces in (False, True):
        put(objects, folder, replaces=replaces)
        place = Path(objects.address.place) / NAME
        assert len({path.stat().st_mode for path in place.iterdir()}) == 1
        assert len(list(place.iterdir())) == 3


def test_what_is_there_is_not_written_again(objects: ObjectStore, folder: Path, tmp_path: Path) -> None:
    put(objects, folder)
    assert not put(objects, written(tmp_path / "other", text='{"other": 1}'))
    assert fetched(objects, tmp_path / "got") == contents(folder)


def test_of_two_writers_at_once_one_is_first_and_the_other_leaves_nothing(
    objects: ObjectStore, folder: Path, tmp_path: Path
) -> None:
    other, both, told = written(tmp_path / "other", text='{"other": 1}'), threading.Barrier(2), []
    real = objects.has

    def has(name: str) -> bool:
        answer = real(name)
        both.wait(PATIENCE)
        return answer

    objects.has = has  # type: ignore[method-assign]
    writers = [
        threading.Thread(target=lambda given=given: told.append(put(objects, given))) for given in (folder, other)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(told) == [False, True]
    assert fetched(objects, tmp_path / "got") in (contents(folder), contents(other))
    assert len(objects_of(objects)) == 3


def test_a_folder_that_a_writer_did_not_finish_is_not_there(
    objects: ObjectStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(objects, "_put_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            put(objects, folder)
    assert len(objects_of(objects)) == 2
    assert not objects.has(NAME)
    with pytest.raises(NotStored, match="is not in the store"):
        fetched(objects, tmp_path / "got")
    assert put(objects, folder)
    assert fetched(objects, tmp_path / "got") == contents(folder)


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "other bytes": ("-weights.bin", flipped),
    "cut off": ("-weights.bin", lambda data: data[:-100]),
    "empty": ("-weights.bin", lambda data: b""),
    "a manifest that is none": (MANIFEST, lambda data: data[:-30]),
    "an empty manifest": (MANIFEST, lambda data: b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_damaged_in_the_store_is_refused_and_repaired(
    damage: str, objects: ObjectStore, folder: Path, tmp_path: Path
) -> None:
    put(objects, folder)
    change(objects, *DAMAGES[damage])
    assert not objects.is_sound(NAME)
    with pytest.raises(Damaged):
        fetched(objects, tmp_path / "got")
    assert put(objects, folder, replaces=True)
    assert objects.is_sound(NAME)
    assert fetched(objects, tmp_path / "got") == contents(folder)


def test_an_object_that_is_missing_is_damage(objects: ObjectStore, folder: Path, tmp_path: Path) -> None:
    put(objects, folder)
    filesystem(objects.address).rm_file(objects_of(objects, "-weights.bin")[0])
    with pytest.raises(Damaged, match=r"weights\.bin of a+ is missing"):
        fetched(objects, tmp_path / "got")


def test_what_replaces_a_folder_leaves_nothing_of_the_old_one(
    objects: ObjectStore, folder: Path, tmp_path: Path
) -> None:
    put(objects, folder)
    other = written(tmp_path / "other", text='{"other": 1}')
    assert put(objects, other, replaces=True)
    assert fetched(objects, tmp_path / "got") == contents(other)
    assert len(objects_of(objects)) == 3


def test_a_removed_folder_is_gone_with_all_its_objects(objects: ObjectStore, folder: Path) -> None:
    put(objects, folder)
    objects.remove(NAME)
    objects.remove(NAME)
    assert not objects.has(NAME)
    assert objects_of(objects) == []
    assert list(objects.folders()) == []


def test_a_fetch_goes_on_where_it_was_broken_off(
    objects: ObjectStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    put(objects, folder)
    real, starts = objects._read, []

    def read(name: str, entry: object, start: int, end: int) -> bytes:
        starts.append(start)
        if start == 3000 and starts.count(3000) == 1:
            raise StoreAway("the network was cut")
        return real(name, entry, start, end)  # type: ignore[arg-type]

    objects._read = read  # type: ignore[method-assign]
    with pytest.raises(StoreAway):
        fetched(objects, tmp_path / "got")
    before = len(starts)
    assert fetched(objects, tmp_path / "got") == contents(folder)
    assert len(starts) - before < before
    assert 3000 in starts[before:]


def test_no_name_in_a_manifest_leads_out_of_the_folder(folder: Path) -> None:
    raw = manifest_of(folder, ["config.json"]).encoded()
    assert parse_manifest(raw, NAME).entries[0].name == "config.json"
    for name in ("../config.json", "/etc/passwd", "a/b", ".hidden", "", "x" * 300):
        with pytest.raises(Damaged):
            parse_manifest(raw.replace(b"config.json", name.encode()), NAME)


def test_a_disk_without_room_is_said_before_a_byte_is_read(
    objects: ObjectStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(objects, folder)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: _Full())
    with pytest.raises(OSError, match=r"no room: .* MB are to come and 0 MB are free"):
        fetched(objects, tmp_path / "got")


class _Full:
    free = 10


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_no_store_is_waited_for_without_a_limit(scheme: str) -> None:
    limits = own_options(scheme)
    limits = limits.get("config_kwargs", limits)
    if scheme == "gs":
        timeout = limits["requests_timeout"]
        assert (timeout.sock_connect, timeout.sock_read) == (CONNECT_SECONDS, READ_SECONDS)
    else:
        assert {CONNECT_SECONDS, READ_SECONDS} <= {value for value in limits.values() if isinstance(value, int)}


# what only a server does


def test_a_bucket_that_is_not_there_is_named(object_server: ObjectServer, folder: Path) -> None:
    objects = ObjectStore(read_address("ADAPTER_STORE", "s3://no-such-bucket/kept", object_server.options))
    for ask in (lambda: objects.has(NAME), lambda: put(objects, folder), lambda: list(objects.folders())):
        with pytest.raises(
            StoreAway, match="the bucket no-such-bucket of ADAPTER_STORE=s3://no-such-bucket/kept does not"
        ):
            ask()


def test_a_store_that_is_away_is_said_without_its_keys_and_answers_when_it_is_back(
    object_server: ObjectServer, folder: Path, tmp_path: Path
) -> None:
    objects = ObjectStore(object_server.new_store())
    put(objects, folder)
    object_server.leave()
    try:
        with pytest.raises(StoreAway, match=r"ADAPTER_STORE=s3://land-.* does not answer") as told:
            objects.has(NAME)
    finally:
        object_server.come_back()
    assert not any(secret in str(told.value) for secret in KEYS.values())
    assert fetched(objects, tmp_path / "got") == contents(folder)


def test_who_is_denied_is_told_what_is_needed(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*args: object, **how: object) -> bytes:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(filesystem(objects.address), "cat_file", deny)
    with pytest.raises(StoreAway, match="denies access; it needs credentials in the environment that may list"):
        objects.has(NAME)


def test_options_that_a_package_refuses_are_not_shown(object_server: ObjectServer) -> None:
    options = json.dumps({"endpoint_url": object_server.url, "config_kwargs": {"secret_whisper": "hush"}})
    objects = ObjectStore(read_address("ADAPTER_STORE", "s3://land/kept", options))
    with pytest.raises(StoreAway) as told:
        objects.has(NAME)
    assert "hush" not in str(told.value)


def test_keys_are_not_in_what_an_address_says_of_itself(object_server: ObjectServer) -> None:
    address = object_server.new_store()
    assert isinstance(address, Address)
    assert not any(secret in f"{address} {address!r}" for secret in KEYS.values())


def test_a_store_that_goes_away_in_the_middle_of_a_file_and_comes_back(
    object_server: ObjectServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(download, "PARALLEL", 1)
    objects, starts = ObjectStore(object_server.new_store()), []
    put(objects, folder)
    real = objects._read

    def read(name: str, entry: object, start: int, end: int) -> bytes:
        starts.append(start)
        if len(starts) == 4:
            object_server.leave()
        return real(name, entry, start, end)  # type: ignore[arg-type]

    objects._read = read  # type: ignore[method-assign]
    try:
        with pytest.raises(StoreAway, match="does not answer"):
            fetched(objects, tmp_path / "got")
    finally:
        object_server.come_back()
    before = len(starts)
    assert fetched(objects, tmp_path / "got") == contents(folder)
    assert 0 < len(starts) - before < 7  # of the seven chunks in two files
