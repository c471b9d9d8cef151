"""The store of proven files: who comes first stays, what is damaged is repaired, nothing half is left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site_settings

from inference.adapters import config_file
from inference.tasks.card import Card
from loraland.catalogue import store
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload import validation
from loraland.catalogue.upload.submission import submit
from tests.loraland.adapter_files import lora_config, write_adapter

Examined = Callable[..., AdapterVersion]
CARD = Card(name="Emotion", base="SmolLM2-135M-Instruct")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")


def encoded(encoding: str, **changes: Any) -> bytes:
    return json.dumps(lora_config(**changes)).encode(encoding)


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in directory.iterdir()}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_config_is_kept_as_it_was_read_in_whatever_unicode_it_came(
    encoding: str, examined: Examined, tmp_path: Path
) -> None:
    version = examined(write_adapter(tmp_path, config=encoded(encoding)))
    assert version.reasons == []
    raw = (store.kept(version.digest) / store.CONFIG).read_bytes()
    assert json.loads(raw.decode("ascii")) == lora_config() == config_file.parse_config(raw)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_the_same_weights_under_another_name_leave_the_stored_files_alone(
    encoding: str, examined: Examined, tmp_path: Path
) -> None:
    first = examined(write_adapter(tmp_path / "a"), "first")
    before = files(store.kept(first.digest))
    second = examined(write_adapter(tmp_path / "b", config=encoded(encoding, revision="another")), "second")
    assert second.digest == first.digest
    assert second.status == first.status
    assert files(store.kept(first.digest)) == before


def damage_weights(directory: Path) -> None:
    data = bytearray((directory / store.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (directory / store.WEIGHTS).unlink()
    (directory / store.WEIGHTS).write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "changed weights": damage_weights,
    "no weights": lambda directory: (directory / store.WEIGHTS).unlink(),
    "half a config": lambda directory: (directory / store.CONFIG).write_bytes(b'{"r": 2'),
    "a config of another method": lambda directory: (directory / store.CONFIG).write_bytes(
        json.dumps(lora_config(peft_type="LOHA")).encode()
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_were_damaged_on_the_disk_are_repaired_and_it_is_said(
    damage: str, examined: Examined, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = examined(write_adapter(tmp_path))
    DAMAGES[damage](store.kept(version.digest))
    assert not store.is_sound(version.digest)
    again = submit(store.receive_directory(tmp_path), "emotion", CARD)
    assert (again.is_new, again.was_repaired) == (False, True)
    assert store.is_sound(version.digest)
    assert "were damaged" in caplog.text


def test_sound_files_are_not_said_to_be_repaired(examined: Examined, tmp_path: Path) -> None:
    version = examined(write_adapter(tmp_path))
    before = files(store.kept(version.digest))
    again = submit(store.receive_directory(tmp_path), "emotion", CARD)
    assert (again.is_new, again.was_repaired) == (False, False)
    assert files(store.kept(version.digest)) == before


@pytest.mark.parametrize("step", ["_link", "_write", "rename"])
def test_a_full_disk_leaves_nothing_half_and_the_examination_is_done_again(
    step: str, examined: Examined, tmp_path: Path, adapter_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    submission = submit(store.receive_directory(write_adapter(tmp_path)), "emotion", CARD)
    with monkeypatch.context() as patch:
        patch.setattr(os if step == "rename" else store, step, fail)
        claimed = AdapterVersion.objects.claim(submission.version.pk)
        assert claimed is not None
        validation.examine(claimed)
    assert list(adapter_store.iterdir()) == []
    version = AdapterVersion.objects.select_related("adapter").get()
    assert (version.status, version.digest) == ("validating", "")
    assert "No space left" in version.reasons[0]
    assert "tried again" in version.reasons[0]
    validation.examine(version)
    version.refresh_from_db()
    assert (version.reasons, store.is_sound(version.digest)) == ([], True)
    assert list(site_settings.QUARANTINE_DIR.iterdir()) == []


def test_two_uploads_that_reach_the_store_at_once_are_both_well(
    examined: Examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = examined(write_adapter(tmp_path)).digest
    rival = store.receive_directory(tmp_path)
    before = files(store.kept(digest))
    answers = iter([False])
    real = store.is_sound
    monkeypatch.setattr(store, "is_sound", lambda digest: next(answers, None) is None and real(digest))
    monkeypatch.setattr(store, "_set_aside", lambda directory: None)  # the rival's files came behind the first look
    store.keep(rival, digest)
    assert files(store.kept(digest)) == before
    assert [path.name for path in store.kept(digest).parent.iterdir()] == [digest]


def test_a_row_comes_to_refer_to_files_while_nobody_may_remove_them(
    examined: Examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def keep(token: str, digest: str) -> bool:
        directory = os.open(site_settings.ADAPTERS_DIR, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(directory)
        seen.append(digest)
        return real(token, digest)

    real = store.keep
    monkeypatch.setattr(store, "keep", keep)
    version = examined(write_adapter(tmp_path))
    assert seen == [version.digest]
