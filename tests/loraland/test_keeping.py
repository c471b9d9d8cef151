"""The site's own processes under the manager: what is killed or frozen comes back, whole and once."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_django import Settings
from redis import Redis

from loraland import liveness
from loraland.__main__ import services
from loraland.celery import SIGN_EVERY
from loraland.logs import LogFiles
from loraland.supervisor import Supervisor
from loraland.watch import Unwell, Watch

REPO = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty one with all tables."""
    directory = tmp_path_factory.mktemp("database")
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "loraland.settings", "VAR_DIR": str(directory)}
    environment["DATABASE_URL"] = f"sqlite:///{directory}/db.sqlite3"
    subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity=0"], cwd=REPO, env=environment, check=True)
    return directory / "db.sqlite3"


@pytest.fixture
async def supervisor(
    tmp_path: Path, database: Path, redis_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Supervisor]:
    """One that starts services with a database of their own."""
    shutil.copy(database, tmp_path)
    settings.REDIS_URL = redis_url
    environment = {"DJANGO_SETTINGS_MODULE": "loraland.settings", "VAR_DIR": str(tmp_path), "REDIS_URL": redis_url}
    environment["DATABASE_URL"] = f"sqlite:///{tmp_path}/db.sqlite3"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(REPO)
    supervisor = Supervisor(print, LogFiles(tmp_path / "log", print))
    yield supervisor
    await supervisor.end()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as redis:
        redis.delete(liveness.sign_of("celery"))
        yield redis
        redis.delete(liveness.sign_of("celery"))


async def test_celery_comes_back_after_a_kill_with_one_beat(
    supervisor: Supervisor, redis: Redis, tmp_path: Path
) -> None:
    """Its Beat outlives it, with the log to which it wrote open."""
    supervisor.keep(*services(["celery"]))
    await _sign_of_celery(redis)
    before = _processes(tmp_path)
    os.kill(min(before), signal.SIGKILL)
    await _gone(before, tmp_path)
    redis.delete(liveness.sign_of("celery"))
    await _sign_of_celery(redis)
    after = _processes(tmp_path)
    assert len(after) == len(before)
    assert {os.getpgid(pid) for pid in after} == {min(after)}


async def test_celery_without_its_beat_is_started_again(supervisor: Supervisor, redis: Redis, tmp_path: Path) -> None:
    """Who only works off jobs makes up for a worker that died, and for a Beat that died nobody does."""
    [service] = services(["celery"])
    assert service.watch
    watch, is_seen = service.watch, asyncio.Event()

    async def look() -> None:
        await watch.look()
        is_seen.set()

    patience = round(1.5 * SIGN_EVERY / 0.5)
    supervisor.keep(replace(service, watch=Watch(look, every=0.5, patience=patience, grace=1000)))
    await is_seen.wait()
    leader, *children = sorted(_processes(tmp_path))
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    await _gone(set(children), tmp_path)
    redis.delete(liveness.sign_of("celery"))
    await _gone({leader}, tmp_path)
    await _sign_of_celery(redis)


async def test_a_frozen_web_process_comes_back(
    supervisor: Supervisor, settings: Settings, tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraland.liveness.SECONDS_A_LOOK", 3.0)
    monkeypatch.setattr("loraland.supervisor.TRACEBACK_SECONDS", 0.5)  # one that is stopped writes none
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    settings.HOST, settings.PORT = "127.0.0.1", unused_tcp_port
    [service] = services(["web"])
    assert service.watch
    look, heard = service.watch.look, asyncio.Event()

    async def listen() -> None:
        await look()
        heard.set()

    supervisor.keep(replace(service, watch=Watch(listen, every=0.5, patience=2, grace=1000)))
    await heard.wait()
    [first] = _processes(tmp_path)
    os.kill(first, signal.SIGSTOP)
    await _gone({first}, tmp_path)
    await _answer()
    assert first not in _processes(tmp_path)


def _processes(directory: Path) -> set[int]:
    """Those that were started with `directory` as their VAR_DIR."""
    mark, found = f"VAR_DIR={directory}".encode(), set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environment.read_bytes().split(b"\0"):
                found.add(int(environment.parent.name))
    return found


async def _gone(pids: set[int], directory: Path) -> None:
    while pids & _processes(directory):  # noqa: ASYNC110 - the event is in another process
        await asyncio.sleep(0.1)


async def _sign_of_celery(redis: Redis) -> None:
    while not redis.exists(liveness.sign_of("celery")):  # noqa: ASYNC110 - the event is in another process
        await asyncio.sleep(0.1)


async def _answer() -> None:
    while True:
        with suppress(Unwell):
            return await liveness.web()
        await asyncio.sleep(0.1)
