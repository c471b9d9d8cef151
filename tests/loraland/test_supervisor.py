"""The process manager, with real children."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loraland.__main__ import CannotStart, check_disk, check_port, redis_command
from loraland.supervisor import Service, Supervisor

COUNT = "import os, sys, time; print('pid', os.getpid(), flush=True); time.sleep(60)"


class Log(list[str]):
    """What the supervisor said, with a way to wait for a line."""

    async def until(self, part: str, count: int = 1) -> str:
        while True:
            found = [line for line in self if part in line]
            if len(found) >= count:
                return found[count - 1]
            await asyncio.sleep(0.02)


@pytest.fixture
async def supervised() -> AsyncIterator[tuple[Supervisor, Log]]:
    log = Log()
    supervisor = Supervisor(log.append)
    yield supervisor, log
    supervisor.stop()
    await supervisor.wait()


def child(code: str, name: str = "child") -> Service:
    return Service(name, (sys.executable, "-c", code))


def pid_in(line: str) -> int:
    return int(line.rsplit(" ", 1)[1])


async def test_a_child_that_is_killed_is_started_again(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    supervisor.keep(child(COUNT))
    first = pid_in(await log.until("pid"))
    os.kill(first, signal.SIGKILL)
    second = pid_in(await log.until("pid", 2))
    assert second != first
    assert "child ended with signal SIGKILL" in await log.until("ended")


async def test_stopping_ends_the_last_child_first_and_leaves_none(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    polite = "import signal, sys, time; signal.signal(15, lambda *_: (print('bye', flush=True), sys.exit())); "
    for name in ("first", "second"):
        supervisor.keep(child(polite + COUNT, name))
    pids = [pid_in(await log.until(f"{name:>8} | pid")) for name in ("first", "second")]
    supervisor.stop()
    await supervisor.wait()
    goodbyes = [line.split("|")[0].strip() for line in log if "bye" in line]
    assert goodbyes == ["second", "first"]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_child_that_stops_is_not_started_again_after_stop(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    supervisor.keep(child("print('once', flush=True)"))
    await log.until("once")
    supervisor.stop()
    await supervisor.wait()
    said = len(log)
    await asyncio.sleep(0.1)
    assert len(log) == said


def test_a_taken_port_is_refused_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"port {port} is taken.*PORT="):
            check_port("127.0.0.1", port)


def test_a_free_port_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotStart, match=r"cannot listen on 192\.0\.2\.1"):
        check_port("192.0.2.1", 8000)


def test_a_full_disk_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraland.__main__.FREE_MB", 10**9)
    with pytest.raises(CannotStart, match="MB free and 1000000000 are needed; free some or set VAR_DIR"):
        check_disk(tmp_path)


def test_the_embedded_redis_keeps_what_was_written() -> None:
    command = redis_command()
    assert Path(command[0]).is_file()
    assert command[command.index("--appendonly") + 1] == "yes"
