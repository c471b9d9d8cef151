"""A store that several hosts share: what comes in at one is examined, kept, repaired and removed by any other."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.core.management import CommandError, call_command
from django.db import connection, connections

from inference.adapters.stored import digest_of
from inference.objects import failures
from inference.objects.address import Address
from inference.objects.filesystem import filesystem
from inference.objects.manifest import MANIFEST
from inference.objects.store import ObjectStore
from inference.tasks.card import Card
from loraland import outage
from loraland.catalogue import distant, store
from loraland.catalogue.alone import alone
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.tasks import drop_left_uploads
from loraland.catalogue.upload.submission import submit
from loraland.catalogue.upload.validation import examine
from tests.loraland.adapter_files import write_adapter
from tests.object_server import ObjectServer

pytestmark = pytest.mark.django_db
Host = Callable[[str], None]
CARD = Card(name="Emotion", base="SmolLM2-135M-Instruct")


@pytest.fixture
def address(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Address:
    monkeypatch.setattr(failures, "PAUSES", [])
    return object_server.new_store()


@pytest.fixture
def on(adapter_store: Path, probes: list[Any], address: Address, settings: Any, tmp_path: Path) -> Host:
    """`on("first")` goes on as a process of that host, with disks of its own."""

    def move(host: str) -> None:
        settings.ADAPTER_STORE, settings.ADAPTER_STORE_OPTIONS = address, address.options
        settings.ADAPTERS_DIR = tmp_path / host / "adapter_cache"
        settings.QUARANTINE_DIR = tmp_path / host / "quarantine"

    return move


def uploaded(directory: Path, slug: str = "emotion") -> AdapterVersion:
    return submit(store.receive_directory(directory), slug, CARD).version


def examined(version: AdapterVersion) -> AdapterVersion:
    claimed = AdapterVersion.objects.claim(version.pk)
    assert claimed is not None
    examine(claimed)
    return AdapterVersion.objects.select_related("adapter").get(pk=version.pk)


def tokens_in_store(address: Address) -> list[str]:
    return list(ObjectStore(address.below(distant.UPLOADS)).folders())


def test_an_upload_at_one_host_is_examined_at_another_and_read_at_a_third(
    on: Host, address: Address, tmp_path: Path, settings: Any
) -> None:
    on("first")
    version = uploaded(write_adapter(tmp_path / "given"))
    assert tokens_in_store(address) == [version.quarantine]
    on("second")
    version = examined(version)
    assert (version.status, version.reasons) == ("validating", [])
    assert tokens_in_store(address) == []
    assert list(settings.QUARANTINE_DIR.iterdir()) == []
    assert store.kept(version.digest).is_dir()
    on("third")
    assert not store.kept(version.digest).exists()
    assert store.is_kept(version.digest)
    with store.opened(version.digest) as directory:
        assert digest_of(directory) == version.digest
    assert store.is_sound(version.digest)


def test_a_copy_that_another_process_drops_meanwhile_fails_no_upload(on: Host, settings: Any, address: Address) -> None:
    on("first")
    settings.QUARANTINE_DIR.mkdir(parents=True)
    (settings.QUARANTINE_DIR / ("0" * 32)).symlink_to("gone")  # listed, and not there when it is looked at
    token = store.receive({name: [b"x"] for name in store.FILES})
    assert tokens_in_store(address) == [token]


def test_a_changed_config_reaches_the_host_that_examines(on: Host, tmp_path: Path) -> None:
    on("first")
    token = store.receive_directory(write_adapter(tmp_path / "given"))
    store.rewrite_config(token, {"changed": True})
    on("second")
    assert b"changed" in (store.quarantined(token) / store.CONFIG).read_bytes()


def test_what_is_rejected_leaves_the_store_and_what_others_need_stays(
    on: Host, tmp_path: Path, address: Address, django_capture_on_commit_callbacks: Any
) -> None:
    on("first")
    one = examined(uploaded(write_adapter(tmp_path / "given")))
    twin = examined(uploaded(tmp_path / "given", "twin"))
    assert twin.digest == one.digest
    on("second")
    with django_capture_on_commit_callbacks(execute=True):
        one.reject(["no more"])
    assert ObjectStore(address).has(twin.digest)
    with django_capture_on_commit_callbacks(execute=True):
        twin.reject(["neither"])
    assert not ObjectStore(address).has(twin.digest)
    on("third")
    assert not store.is_kept(twin.digest)
    with store.opened(twin.digest) as directory:
        assert not directory.exists()


def test_files_that_were_damaged_in_the_store_are_repaired_by_an_upload_and_it_is_said(
    on: Host, tmp_path: Path, address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    on("first")
    version, objects = examined(uploaded(write_adapter(tmp_path / "given"))), ObjectStore(address)
    for end, damage in (
        (".safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        (MANIFEST, lambda data: data[:20]),
    ):
        (path,) = [path for path in objects._objects(version.digest) if path.endswith(end)]
        filesystem(address).pipe_file(path, damage(filesystem(address).cat_file(path)))
        on(f"reader of {end}")
        with store.opened(version.digest) as directory:
            assert not directory.exists()
        on("second")
        again = submit(store.receive_directory(tmp_path / "given"), "emotion", CARD)
        assert (again.is_new, again.was_repaired) == (False, True)
        assert store.is_sound(version.digest)
    assert "were damaged" in caplog.text
    again = submit(store.receive_directory(tmp_path / "given"), "emotion", CARD)
    assert (again.is_new, again.was_repaired) == (False, False)


def test_while_the_store_is_away_nothing_comes_in_and_nothing_is_rejected(
    on: Host, tmp_path: Path, object_server: ObjectServer, settings: Any
) -> None:
    on("first")
    version, kept = (
        uploaded(write_adapter(tmp_path / "given")),
        examined(uploaded(write_adapter(tmp_path / "b", seed=1), "b")),
    )
    on("second")
    object_server.leave()
    try:
        with pytest.raises(failures.StoreAway) as away:
            store.receive_directory(tmp_path / "given")
        assert outage.is_outage(away.value)
        assert not any(settings.QUARANTINE_DIR.iterdir())
        version = examined(version)
        assert store.is_kept(kept.digest)
    finally:
        object_server.come_back()
    assert version.status == "validating"
    assert "the disk or the store fails (the store ADAPTER_STORE=s3://" in version.reasons[0]
    examine(version)
    version.refresh_from_db()
    assert (version.reasons, store.is_kept(version.digest)) == ([], True)


def test_an_old_upload_without_a_version_leaves_the_store_and_no_other(
    on: Host, publish: Any, address: Address
) -> None:
    on("first")
    old, new, awaited = (store.receive({name: [b"x"] for name in store.FILES}) for _ in range(3))
    publish(status="uploaded", quarantine=awaited)
    uploads = ObjectStore(address.below(distant.UPLOADS))
    for token in (old, awaited):
        path = uploads._path(token, MANIFEST)
        manifest = uploads.manifest(token)
        assert manifest
        aged = manifest.encoded().replace(str(manifest.written).encode(), b"1.0")
        filesystem(address).pipe_file(path, aged)
        os.utime(store.quarantined(token), (1, 1))
    on("second")
    drop_left_uploads()
    assert sorted(tokens_in_store(address)) == sorted([new, awaited])
    on("first")
    store.receive({name: [b"x"] for name in store.FILES})
    assert not (store._quarantine(old)).exists()
    assert store.quarantined(awaited).is_dir()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="hosts share a database, which is PostgreSQL then")
@pytest.mark.django_db(transaction=True)
def test_a_row_comes_to_refer_to_files_while_no_other_host_may_remove_them(on: Host) -> None:
    told: list[str] = []

    def remove() -> None:
        on("second")
        with closing(connections["default"]), alone():
            told.append("removed")

    on("first")
    with alone():
        other = threading.Thread(target=remove)
        other.start()
        time.sleep(0.3)
        told.append("referred")
    other.join()
    assert told == ["referred", "removed"]


# from a folder to the store


def copied(*arguments: str) -> str:
    out = StringIO()
    call_command("copy_store", *arguments, stdout=out)
    return out.getvalue()


def test_a_folder_is_copied_and_a_second_copy_goes_on_from_there(
    examined_here: list[str], on: Host, address: Address, settings: Any
) -> None:
    folder = settings.ADAPTERS_DIR
    on("first")
    ObjectStore(address).put(examined_here[0], folder / examined_here[0], store.FILES)
    (folder / "notes").mkdir()
    told = copied("--from", str(folder))
    assert f"{examined_here[0]} was there" in told
    assert f"{examined_here[1]} copied" in told
    assert f"1 copied, 1 were in {address}" in told
    assert "0 copied, 2 were" in copied("--from", str(folder), "--to", str(address))
    assert "2 are needed, 2 are in" in copied("--check")
    for digest in examined_here:
        with store.opened(digest) as directory:
            assert digest_of(directory) == digest


def test_what_is_damaged_in_the_folder_or_the_store_is_told(
    examined_here: list[str], on: Host, address: Address, settings: Any
) -> None:
    folder, (one, other) = settings.ADAPTERS_DIR, examined_here
    (folder / one / store.WEIGHTS).write_bytes(b"not these")
    on("first")
    with pytest.raises(CommandError, match=f"{one} does not hold what its name says"):
        copied("--from", str(folder))
    objects = ObjectStore(address)
    (path,) = [path for path in objects._objects(other) if path.endswith(".safetensors")]
    filesystem(address).pipe_file(path, b"short")
    with pytest.raises(CommandError) as wrong:
        copied("--check")
    assert f"{one}, emotion" in str(wrong.value)
    assert "is missing; import it again" in str(wrong.value)
    assert "is damaged (adapter_model.safetensors" in str(wrong.value)


def test_a_copy_needs_a_folder_and_a_store(on: Host, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="name the store with --to or ADAPTER_STORE"):
        copied()
    with pytest.raises(CommandError, match="is no address of a store"):
        copied("--to", "bucket")
    on("first")
    with pytest.raises(CommandError, match="is no folder"):
        copied("--from", str(tmp_path / "nowhere"))


@pytest.fixture
def examined_here(adapter_store: Path, probes: list[Any], tmp_path: Path) -> list[str]:
    """The digests of two adapters in a folder of this host, as it was before there was a store."""
    given = [write_adapter(tmp_path / f"given{seed}", seed=seed) for seed in range(2)]
    return [examined(uploaded(directory, f"emotion{at}")).digest for at, directory in enumerate(given)]


@pytest.mark.slow
def test_what_comes_in_at_one_host_is_answered_on_another_with_the_same_tokens(
    on: Host, address: Address, model_dir: Path, tmp_path: Path
) -> None:
    from inference.config import EngineConfig
    from inference.engine.engine import Engine
    from inference.wire.protocol import AdapterRef, Generate, Probe, Sampling
    from tests.inference.engines import Record, drain

    def answers(var_dir: Path, store: Address | None, digest: str) -> dict[str, Record]:
        config = EngineConfig(var_dir, "", str(model_dir), device="cpu", kv_blocks=64, adapter_store=store)
        engine = Engine(config)
        engine.add(Probe("proof", AdapterRef(digest)))
        engine.add(Generate("a", AdapterRef(digest), prompt="I am so happy", sampling=Sampling(max_tokens=8)))
        records = drain(engine)
        engine.close()
        return records

    shipped = site_settings.DEMO_ADAPTERS_DIR / "tweet_emotion"
    on("first")
    version = uploaded(shipped)
    on("second")
    version = examined(version)
    assert version.reasons == []
    (tmp_path / "here" / "adapters").mkdir(parents=True)
    shutil.copytree(shipped, tmp_path / "here" / "adapters" / version.digest)
    here, there = answers(tmp_path / "here", None, version.digest), answers(tmp_path / "third", address, version.digest)
    assert there["a"].token_ids == here["a"].token_ids
    assert there["proof"].finished.stats.logit_delta == here["proof"].finished.stats.logit_delta
    assert (tmp_path / "third" / "adapter_cache" / version.digest).is_dir()
