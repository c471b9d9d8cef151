"""``python -m inference`` as a process manager sees it: exit codes, signals and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from tests.patience import PATIENCE
from tests.redis_server import RedisServer

REPO = Path(__file__).parents[2]


def start(tmp_path: Path, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "inference"],
        cwd=REPO,
        env={**os.environ, "VAR_DIR": str(tmp_path), "WORKER_NAME": "w", "DEVICE": "cpu", **env},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DTYPE", "float8", "DTYPE=float8 is not known; choose bfloat16, float16 or float32"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL=loud is not known; choose debug, info, warning or error"),
    ],
)
def test_a_bad_variable_ends_it_with_a_sentence(tmp_path, name, value, sentence):
    process = start(tmp_path, **{name: value})
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert sentence in said


def test_the_level_of_its_logs_is_that_of_the_environment(tmp_path, redis_server: RedisServer):
    process = start(tmp_path, REDIS_URL=redis_server.url, BASE_MODEL=str(tmp_path / "nothing"), LOG_LEVEL="WARNING")
    _, said = process.communicate(timeout=PATIENCE)
    assert "refused worker=w" in said
    assert " INFO " not in said


@pytest.mark.slow
def test_a_missing_model_ends_it_for_the_process_manager_to_see(tmp_path, redis_server: RedisServer):
    process = start(tmp_path, REDIS_URL=redis_server.url, BASE_MODEL=str(tmp_path / "nothing"))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "refused worker=w error=the base model" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_base_that_is_not_served_ends_it_with_a_sentence_alone(tmp_path, redis_server: RedisServer):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    process = start(tmp_path, REDIS_URL=redis_server.url, BASE_MODEL=str(tmp_path / "odd"))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "refused worker=w error=the architecture MixtralForCausalLM is not supported: it is a Mixture" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_even_while_it_loads(tmp_path, redis_server: RedisServer, model_dir, number):
    process = start(tmp_path, REDIS_URL=redis_server.url, BASE_MODEL=str(model_dir))
    with Redis.from_url(redis_server.url) as client:
        key = f"worker:{model_dir.name.lower()}:w"
        while not client.get(key):
            assert process.poll() is None
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        assert not client.exists(key)
    assert "ready worker" not in said, "it was loading"
