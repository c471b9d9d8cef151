"""The Redis that the site brings along, and the one of a site that has not quite ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/redis.sock"


@contextmanager
def embedded(var_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One as `make run` starts it."""
    environ = {name: value for name, value in os.environ.items() if name not in {"REDIS_URL", "DATABASE_URL"}}
    command = [sys.executable, "-m", "loraland.embedded_redis"]
    process = subprocess.Popen(command, cwd=REPO, env={**environ, "VAR_DIR": str(var_dir)}, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> Redis:
    """A client, once `process` itself is what answers."""
    client = Redis.from_url(url)
    while True:
        try:
            if client.info("server")["process_id"] == process.pid:
                return client
        except RedisError:
            assert process.poll() is None
        time.sleep(0.05)


def test_it_keeps_what_was_written_when_it_is_killed(tmp_path: Path, url: str) -> None:
    with embedded(tmp_path) as first:
        wait_for(url, first).set("word", "kept")
    with embedded(tmp_path) as second:
        assert wait_for(url, second).get("word") == b"kept"


def test_one_that_is_started_too_early_serves_once_the_one_before_has_gone(tmp_path: Path, url: str) -> None:
    with embedded(tmp_path) as first:
        client = wait_for(url, first)
        with embedded(tmp_path) as second:
            time.sleep(1.5)  # in which it would have taken the socket
            assert client.info("server")["process_id"] == first.pid
            first.kill()
            wait_for(url, second)
