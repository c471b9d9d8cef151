"""Several web processes behind one port: each serves everything by itself, and none is missed."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import websockets
from pytest_django import Settings

from inference.wire.capacity import Capacity
from inference.wire.contract import Claim
from inference.wire.protocol import Delta, Finished
from inference.wire.redis_wire import RedisWire
from loraland import web
from loraland.__main__ import services
from loraland.logs import LogFiles
from loraland.supervisor import Service, Supervisor
from loraland.watch import Unwell
from tests.patience import PATIENCE

REPO = Path(__file__).parents[2]
WORDS = [f"{number} " for number in range(12)]

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@dataclass
class Both:
    """Two web processes; `key` opens their API."""

    url: str
    key: str
    services: list[Service]
    directory: Path

    def pids(self) -> list[int]:
        """Theirs, in the order of their names, as far as they run; each knows its own socket by its number."""
        found = []
        for service in self.services:
            command = "\0".join(service.command).encode()
            mark = f"VAR_DIR={self.directory}".encode()
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    is_it = command in (process / "cmdline").read_bytes() and mark in (process / "environ").read_bytes()
                except OSError:
                    continue
                found += [int(process.name)] if is_it else []
        return found

    async def are_up(self) -> None:
        for service in self.services:
            assert service.watch
            while True:
                try:
                    await service.watch.look()
                    break
                except Unwell:
                    await asyncio.sleep(0.1)

    @contextmanager
    def asleep(self, pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def both(
    tmp_path: Path, redis_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> AsyncIterator[Both]:
    settings.REDIS_URL, settings.WEB_PROCESSES = redis_url, 2
    settings.HOST, settings.PORT, settings.ALLOWED_HOSTS = "127.0.0.1", unused_tcp_port, ["127.0.0.1"]
    told = {"DJANGO_SETTINGS_MODULE": "loraland.settings", "VAR_DIR": str(tmp_path), "REDIS_URL": redis_url}
    for name, value in {**told, "DEBUG": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(REPO)
    await manage("migrate", "--verbosity=0")
    key = (await manage("create_api_key", "tests")).split()[-1]
    supervisor = Supervisor(print, LogFiles(tmp_path / "log", print))
    kept = services(["web"])
    for service in kept:
        supervisor.keep(service)
    found = Both(f"http://127.0.0.1:{unused_tcp_port}", key, kept, tmp_path)
    await found.are_up()
    yield found
    await supervisor.end()
    for service in kept:
        for listening in service.sockets:
            listening.close()


async def manage(*arguments: str) -> str:
    running = await asyncio.create_subprocess_exec(sys.executable, "manage.py", *arguments, stdout=-1)
    said, _ = await running.communicate()
    assert running.returncode == 0
    return said.decode()


def test_one_listens_by_itself_and_several_share_a_socket_beside_one_of_their_own(
    settings: Settings, unused_tcp_port: int
) -> None:
    settings.HOST, settings.PORT = "127.0.0.1", unused_tcp_port
    settings.WEB_PROCESSES = 1
    assert [(service.name, service.sockets) for service in services(["web"])] == [("web", ())]
    settings.WEB_PROCESSES = 3
    several = services(["web"])
    assert [service.name for service in several] == ["web-1", "web-2", "web-3"]
    shared, own = zip(*(service.sockets for service in several), strict=True)
    assert {socket.getsockname()[1] for socket in shared} == {unused_tcp_port}
    assert len({socket.getsockname()[1] for socket in own}) == 3
    for socket in {*shared, *own}:
        socket.close()


@linux
@pytest.mark.slow
async def test_each_of_two_serves_pages_programs_and_sockets_while_the_other_sleeps(both: Both) -> None:
    for pid in both.pids():
        with both.asleep(pid):
            async with httpx.AsyncClient(base_url=both.url, timeout=PATIENCE) as client:
                models = await client.get("/v1/models", headers={"Authorization": f"Bearer {both.key}"})
                assert ((await client.get("/")).status_code, models.status_code) == (200, 200)
            address = f"{both.url.replace('http', 'ws')}/ws/answers/?new"
            async with websockets.connect(address, origin=both.url, compression=None, open_timeout=PATIENCE) as socket:
                await socket.send(json.dumps({"type": "ping"}))
                assert json.loads(await socket.recv()) == {"type": "pong"}


@linux
@pytest.mark.slow
async def test_an_answer_that_one_told_goes_on_at_the_other_when_it_is_killed(both: Both, settings: Settings) -> None:
    teller, other = both.pids()
    headers = {"Authorization": f"Bearer {both.key}"}
    body = {"model": "base", "prompt": "hi", "stream": True, "store": True}
    patient = httpx.AsyncClient(base_url=both.url, timeout=PATIENCE)
    async with RedisWire.connect(settings.REDIS_URL) as wire, patient as client:
        claiming, heard = asyncio.create_task(claimed(wire, settings.BASE_KEY)), Heard()
        with both.asleep(other):
            async with client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
                claim = await claiming
                await wire.append(claim, [Delta(claim.id, word, (0,)) for word in WORDS[:6]])
                with suppress(httpx.TransportError):
                    async for line in response.aiter_lines():
                        heard.take(line)
                        if heard.text == "".join(WORDS[:6]):
                            os.kill(teller, signal.SIGKILL)
                            break
        assert heard.text == "".join(WORDS[:6])
        await wire.append(claim, [Delta(claim.id, word, (0,)) for word in WORDS[6:]])
        await wire.finish(claim, Finished(claim.id, "done"))
        again = {**headers, "Last-Event-ID": heard.cursor}
        address = f"/v1/completions/{claim.id}?stream=true"
        async with client.stream("GET", address, headers=again) as response:
            async for line in response.aiter_lines():
                heard.take(line)
    assert heard.text == "".join(WORDS)
    await both.are_up()
    assert other in both.pids()
    assert teller not in both.pids()


class Heard:
    """What a caller has of an answer, and the cursor behind it."""

    text = cursor = _next = ""

    def take(self, line: str) -> None:
        if line.startswith("id: "):
            self._next = line[4:]
        elif line.startswith("data: {"):
            choices = json.loads(line[6:])["choices"]
            self.text += choices[0]["text"] if choices else ""
            self.cursor = self._next


async def claimed(wire: RedisWire, base: str) -> Claim:
    while not (claims := await wire.claim(base, "w", "f", Capacity(1), 300)):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return claims[0]


def test_circles_of_garbage_are_looked_for_seldom_and_found():
    class Link:
        itself: Link

    usual = gc.get_threshold()
    try:
        web.collect_seldom()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > usual[0]
        link = Link()
        link.itself, seen = link, weakref.ref(link)
        del link
        gc.collect()
        assert seen() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)
