"""A training over several hosts: rows come in at one, another queues it, a third trains, any takes what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from inference.adapters.stored import FILES
from inference.objects import failures
from inference.objects.address import Address
from inference.objects.failures import StoreAway
from inference.objects.filesystem import filesystem
from inference.objects.store import ObjectStore
from inference.server import trained
from loraland.training.drafting import examine
from loraland.training.following import message_of, submit
from loraland.training.models import Training
from tests.loraland.adapter_files import write_adapter
from tests.object_server import ObjectServer

Host = Callable[[str], Path]


@pytest.fixture
def address(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Address:
    monkeypatch.setattr(failures, "PAUSES", [])
    monkeypatch.setattr(trained, "PAUSES", [0.0])
    return object_server.new_store()


@pytest.fixture
def on(adapter_store: Path, probes: list[Any], address: Address, settings: Any, tmp_path: Path) -> Host:
    """`on("first")` goes on as a process of that host, and tells its VAR_DIR."""

    def move(host: str) -> Path:
        settings.VAR_DIR = tmp_path / host
        settings.ADAPTER_STORE = address
        settings.ADAPTERS_DIR = settings.VAR_DIR / "adapter_cache"
        settings.QUARANTINE_DIR = settings.VAR_DIR / "quarantine"
        settings.DATASETS_DIR = settings.VAR_DIR / "datasets"
        settings.TRAININGS_DIR = settings.VAR_DIR / "trainings"
        return settings.VAR_DIR

    return move


def train(address: Address, training: Training, var_dir: Path) -> None:
    """What a trainer does with its files, but for the arithmetic."""
    message = message_of(training)
    data, out = var_dir / message.data, var_dir / message.out
    trained.take_rows(address, message.id, data)
    assert {path.name for path in data.iterdir()} == {"train.jsonl", "test.jsonl"}
    write_adapter(out)
    (out / "checkpoint.bin").write_bytes(b"half")
    trained.give_back(address, message.id, out, (*FILES, "card.toml"))
    assert not out.exists()


def test_rows_go_to_the_trainer_and_its_adapter_becomes_a_draft(
    on: Host, plan: Callable[..., Training], address: Address, redis: Redis, tmp_path: Path
) -> None:
    on("first")
    training = plan()
    assert training.data.path.exists()
    on("second")
    submit(training, redis)
    train(address, training, tmp_path / "third")
    on("first")
    training.change(state=Training.State.EXAMINING)
    examine(training)
    training.refresh_from_db()
    assert training.version is not None
    assert training.version.digest
    assert {path.name for path in (training.folder / "out").iterdir()} == {*FILES}
    training.end(Training.State.DONE)
    assert list(ObjectStore(address.below("trainings")).folders()) == []


def test_what_is_damaged_or_gone_on_its_way_ends_it_with_a_sentence(
    on: Host, plan: Callable[..., Training], address: Address, redis: Redis, tmp_path: Path
) -> None:
    on("first")
    gone, damaged = plan(slug="gone"), plan(slug="damaged")
    submit(damaged, redis)
    train(address, damaged, tmp_path / "third")
    objects = ObjectStore(address.below("trainings"))
    (path,) = [path for path in objects._objects(f"{damaged.wire_id}-out") if path.endswith(".safetensors")]
    data = filesystem(address).cat_file(path)
    filesystem(address).pipe_file(path, data[:-1] + bytes([data[-1] ^ 1]))
    for training in (gone, damaged):
        training.change(state=Training.State.EXAMINING)
        examine(training)
        training.refresh_from_db()
    assert gone.reason == "The trained files are gone from this machine; train again."
    assert damaged.reason == "The trained files were damaged on their way here; train again."


def test_a_store_that_is_away_is_asked_again_and_nothing_is_lost(
    on: Host, plan: Callable[..., Training], address: Address, redis: Redis, tmp_path: Path, object_server: ObjectServer
) -> None:
    var_dir = on("first")
    training = plan()
    object_server.leave()
    try:
        submit(training, redis)
        training.refresh_from_db()
        assert "Its rows could not be written: the store ADAPTER_STORE=" in training.note
        out = write_adapter(var_dir / message_of(training).out)
        with pytest.raises(StoreAway):
            trained.give_back(address, training.wire_id, out, FILES)
        assert (out / FILES[0]).exists()
        training.change(state=Training.State.EXAMINING)
        for name in FILES:
            (out / name).unlink()
        examine(training)
    finally:
        object_server.come_back()
    training.refresh_from_db()
    assert "It is tried again" in training.note
    assert training.state == Training.State.EXAMINING
