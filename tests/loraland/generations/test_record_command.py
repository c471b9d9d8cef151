"""`manage.py record` as a process: it works until it is told to stop, and then leaves in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.patience import PATIENCE

REPO = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_recorder_reads_at_once_and_leaves_in_order(redis_url, tmp_path):
    environment = {**os.environ, "REDIS_URL": redis_url, "VAR_DIR": str(tmp_path), "DATABASE_URL": ""}
    command = [sys.executable, "manage.py", "record", "--name", "lonely"]
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    client.flushall()
    with subprocess.Popen(command, cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True) as recorder:
        deadline = time.monotonic() + PATIENCE
        while not readers(client) and time.monotonic() < deadline:
            time.sleep(0.1)
        recorder.send_signal(signal.SIGTERM)
        _, told = recorder.communicate(timeout=PATIENCE)
    assert readers(client) == ["lonely"]
    assert recorder.returncode == 0
    assert "Traceback" not in told


def readers(client: redis.Redis) -> list[str]:
    try:
        return [consumer["name"] for consumer in client.xinfo_consumers("generation:finished", "recorders")]
    except redis.ResponseError:  # the recorder has not made the stream and its group yet
        return []
