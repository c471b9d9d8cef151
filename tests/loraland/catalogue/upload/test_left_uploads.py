"""Uploads that no version refers to are removed, in time."""

from __future__ import annotations

import os
import time

import pytest

from loraland.catalogue import store
from loraland.catalogue.tasks import drop_left_uploads

pytestmark = pytest.mark.django_db


def test_an_old_upload_without_a_version_is_removed_and_no_other(adapter_store, publish):
    old, new, awaited = (store.receive({name: [b"x"] for name in store.FILES}) for _ in range(3))
    publish(status="uploaded", quarantine=awaited)
    for token in (old, awaited):
        long_ago = time.time() - store.LEFT_SECONDS - 60
        os.utime(store.quarantined(token), (long_ago, long_ago))
    drop_left_uploads()
    assert [store.quarantined(token).exists() for token in (old, new, awaited)] == [False, True, True]


def test_without_any_upload_there_is_nothing_to_remove(settings, tmp_path):
    settings.QUARANTINE_DIR = tmp_path / "nothing"
    drop_left_uploads()
