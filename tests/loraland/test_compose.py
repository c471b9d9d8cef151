"""compose.yaml without Docker: each service's own command and environment, until its own health check passes."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.patience import PATIENCE, patiently

REPO = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((REPO / "compose.yaml").read_text())
GIVEN = {"SECRET_KEY": "s" * 50, "POSTGRES_PASSWORD": "secret"}
LONG_LIVED = ("recorder", "worker-cpu", "trainer", "celery", "web")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def interpolate(text: str) -> str:
    """What Compose makes of ${NAME}, ${NAME:-default} and ${NAME:?message}."""

    def value(match: re.Match[str]) -> str:
        name, mark, rest = match.group(1), match.group(2), match.group(3)
        if name in GIVEN:
            return GIVEN[name]
        assert mark != ":?", f"{name} must be given: {rest}"
        return rest or ""

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, str(text))


def environment_of(service: dict[str, Any], real: dict[str, str]) -> dict[str, str]:
    given = {name: interpolate(value) for name, value in service["environment"].items()}
    return {**os.environ, **given, **real}


def command_of(words: list[str], port: int) -> list[str]:
    words = [interpolate(word).replace("8000", str(port)).replace("0.0.0.0", "127.0.0.1") for word in words]
    return [sys.executable if word == "python" else word.replace("python ", f"{sys.executable} ") for word in words]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[dict[str, str]]:
    """A real PostgreSQL and a real Redis, and a volume with the base model in it."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    home = tmp_path_factory.mktemp("compose")
    (home / "models").mkdir()
    (home / "models" / model_dir.name).symlink_to(model_dir)
    redis = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", str(home / "redis.sock"), "--save", ""])
    postgres = subprocess.Popen(
        [str(REPO / "bin/with-postgres"), "sh", "-c", 'echo "$DATABASE_URL"; cat'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert postgres.stdout is not None
        url = postgres.stdout.readline().strip()
        if not url:
            pytest.skip("PostgreSQL's server is not installed")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        yield {
            "DATABASE_URL": url,
            "REDIS_URL": f"unix://{home}/redis.sock",
            "VAR_DIR": str(home),
            "PORT": str(port),
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
        }
    finally:
        postgres.communicate("")
        redis.terminate()
        redis.wait()


@pytest.fixture(scope="module")
def stack(real: dict[str, str]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The services of compose.yaml, started as Compose would."""
    services, port = COMPOSE["services"], int(real["PORT"])
    migrate = services["migrate"]
    subprocess.run(command_of(migrate["command"], port), env=environment_of(migrate, real), cwd=REPO, check=True)
    started = {
        name: subprocess.Popen(
            command_of(services[name]["command"], port), env=environment_of(services[name], real), cwd=REPO
        )
        for name in LONG_LIVED
    }
    yield started
    for child in started.values():
        child.terminate()
    for child in started.values():
        try:
            child.wait(PATIENCE)
        finally:
            child.kill()


@pytest.mark.parametrize("name", LONG_LIVED)
def test_the_service_becomes_healthy(
    name: str, stack: dict[str, subprocess.Popen[bytes]], real: dict[str, str]
) -> None:
    service = COMPOSE["services"][name]
    check = command_of(service["healthcheck"]["test"][1:], int(real["PORT"]))
    for _ in patiently():
        assert stack[name].poll() is None, f"{name} ended with exit code {stack[name].returncode}"
        outcome = subprocess.run(check, env=environment_of(service, real), cwd=REPO, capture_output=True, text=True)
        if outcome.returncode == 0:
            return
    raise AssertionError(outcome.stdout + outcome.stderr)


@pytest.mark.parametrize("name", LONG_LIVED)
def test_a_service_that_is_not_there_is_unhealthy(name: str, real: dict[str, str], tmp_path: Path) -> None:
    service = COMPOSE["services"][name]
    nowhere = {**real, "REDIS_URL": f"unix://{tmp_path}/none.sock", "PORT": "1"}
    check = command_of(service["healthcheck"]["test"][1:], 1)
    outcome = subprocess.run(check, env=environment_of(service, nowhere), cwd=REPO, capture_output=True, text=True)
    assert outcome.returncode == 1
    assert name.removesuffix("-cpu") in outcome.stderr
