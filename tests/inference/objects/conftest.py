"""The same stores for all tests of this room: a folder, and a bucket of a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.objects import failures
from inference.objects.address import Address, read_address
from inference.objects.store import ObjectStore
from tests.object_server import ObjectServer


@pytest.fixture(params=["file", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    if request.param == "file":
        return read_address("ADAPTER_STORE", f"file://{tmp_path}/bucket")
    server: ObjectServer = request.getfixturevalue("object_server")
    return server.new_store()


@pytest.fixture
def objects(address: Address) -> ObjectStore:
    return ObjectStore(address)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "PAUSES", [0.0])
