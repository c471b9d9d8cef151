"""The process manager, with real children."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from loraland import liveness
from loraland.__main__ import CannotStart, check_disk, check_port, main, services
from loraland.child import runs
from loraland.logs import LogFiles
from loraland.supervisor import Service, Supervisor
from loraland.watch import Silent, Watch

pytestmark = pytest.mark.slow

COUNT = "import os, sys, time; print('pid', os.getpid(), flush=True); time.sleep(60)"


class Log:
    """What the supervisor said, then what its children have written, with a way to wait for a line."""

    def __init__(self, directory: Path) -> None:
        self.said: list[str] = []
        self.files = LogFiles(directory, self.said.append)
        self.directory = directory

    def __iter__(self) -> Iterator[str]:
        yield from self.said
        for path in sorted(self.directory.glob("*.log")):
            yield from (f"{path.stem:>8} | {line}" for line in path.read_text(errors="replace").splitlines())

    async def until(self, part: str, count: int = 1) -> str:
        while True:
            found = [line for line in self if part in line]
            if len(found) >= count:
                return found[count - 1]
            await asyncio.sleep(0.02)


@pytest.fixture
async def supervised(tmp_path: Path) -> AsyncIterator[tuple[Supervisor, Log]]:
    log = Log(tmp_path / "log")
    supervisor = Supervisor(log.said.append, log.files)
    yield supervisor, log
    await supervisor.end()


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.02)


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
    told = [line for line in log.said if "child" in line]
    assert told == [f"child ended with signal SIGKILL; starting it again in 1 s (see {log.directory}/child.log)"]


async def test_a_crash_is_one_line_and_its_reason_is_in_the_log(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    supervisor.keep(child("raise RuntimeError('no such thing')"))
    await log.until("| RuntimeError: no such thing")
    assert "child ended with exit code 1; starting it again in 1 s" in await log.until("ended")
    assert not any("RuntimeError" in line for line in log.said)


async def test_services_that_end_soon_after_their_start_are_counted(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    supervisor.keep(child("", "brief"))
    supervisor.keep(child(COUNT, "lasting"))
    await log.until("brief ended", 2)
    assert (supervisor.early_ends["brief"], supervisor.early_ends["lasting"]) == (2, 0)


async def test_a_full_disk_ends_no_child(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    log.directory.mkdir()
    (log.directory / "child.log").symlink_to("/dev/full")
    went_on = log.directory / "went_on"
    warn = "import logging; [logging.warning('x' * 5000) for _ in range(100)]; "
    supervisor.keep(child(f"{warn} open({str(went_on)!r}, 'w'); import time; time.sleep(60)"))
    await until(went_on.exists)
    assert log.said == []


async def test_a_log_that_cannot_be_opened_is_told_and_the_child_runs(
    supervised: tuple[Supervisor, Log], capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor, log = supervised
    log.directory.write_text("no directory")
    supervisor.keep(child(COUNT))
    assert str(log.directory) in await log.until("child writes here, for its log cannot be written")
    await until(lambda: "pid" in capfd.readouterr().out)


async def test_without_a_directory_children_write_where_we_do(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append, LogFiles(None, print))
    supervisor.keep(child("import sys; print('out'); print('err', file=sys.stderr)"))
    await until(lambda: bool(said))
    await supervisor.end()
    captured = capfd.readouterr()
    assert captured.out.split()[:2] == ["out", "err"]
    assert captured.err == ""
    assert said[0] == "child ended with exit code 0; starting it again in 1 s"


SUPERVISING = """
import asyncio, sys
from pathlib import Path
from loraland.child import runs
from loraland.logs import LogFiles
from loraland.supervisor import Service, Supervisor
async def main():
    supervisor = Supervisor(print, LogFiles(Path(sys.argv[1]), print))
    supervisor.keep(Service("child", (sys.executable, "-c", sys.argv[2])))
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
async def test_the_last_words_of_children_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    last_words = "import signal, sys; signal.signal(15, lambda *_: sys.exit('the last words')); "
    log = Log(tmp_path)
    command = (sys.executable, "-c", SUPERVISING, str(tmp_path), last_words + COUNT)
    supervising = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2])
    await log.until("| pid")
    supervising.kill()
    await supervising.wait()
    await log.until("| the last words")


async def test_stopping_ends_the_last_child_first_and_leaves_none(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    bye = "print('bye', time.monotonic(), flush=True)"
    polite = f"import signal, sys, time; signal.signal(15, lambda *_: ({bye}, sys.exit())); "
    for name in ("first", "second"):
        supervisor.keep(child(polite + COUNT, name))
    pids = [pid_in(await log.until(f"{name:>8} | pid")) for name in ("first", "second")]
    await supervisor.end()
    goodbyes = {line.split("|")[0].strip(): float(line.rsplit(" ", 1)[1]) for line in log if "bye" in line}
    assert sorted(goodbyes, key=goodbyes.__getitem__) == ["second", "first"]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_child_that_stops_is_not_started_again_after_stop(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    supervisor.keep(child("print('once', flush=True)"))
    await log.until("once")
    await supervisor.end()
    said = len(list(log))
    await asyncio.sleep(0.1)
    assert len(list(log)) == said


ORPHAN = """
import os, signal, sys, time
if os.fork():
    time.sleep(60)
signal.signal(signal.SIGTERM, lambda *_: (print("orphan leaves", flush=True), sys.exit()))
print("orphan", os.getpid(), flush=True)
time.sleep(60)
"""


async def test_what_a_dead_child_leaves_behind_holds_up_nothing_and_is_ended(
    supervised: tuple[Supervisor, Log],
) -> None:
    """It holds the pipe to which the child wrote, so the end of the output tells nothing of the child's end."""
    supervisor, log = supervised
    supervisor.keep(child("import os; print('pid', os.getpid(), flush=True)\n" + ORPHAN))
    first, orphan = pid_in(await log.until("| pid")), pid_in(await log.until("| orphan"))
    os.kill(first, signal.SIGKILL)
    assert pid_in(await log.until("| pid", 2)) != first
    assert is_gone(orphan)
    assert any("orphan leaves" in line for line in log)


async def test_an_orphan_that_does_not_heed_is_killed(
    supervised: tuple[Supervisor, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraland.child.ORPHAN_SECONDS", 0.5)
    supervisor, log = supervised
    deaf = ORPHAN.replace('lambda *_: (print("orphan leaves", flush=True), sys.exit())', "signal.SIG_IGN")
    supervisor.keep(child("import os; print('pid', os.getpid(), flush=True)\n" + deaf))
    first, orphan = pid_in(await log.until("| pid")), pid_in(await log.until("| orphan"))
    os.kill(first, signal.SIGKILL)
    await log.until("| pid", 2)
    assert is_gone(orphan)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the dead from those that run")
def test_the_dead_whom_nobody_has_buried_are_not_waited_for() -> None:
    dead, living = (
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
        for code in ("", COUNT)
    )
    assert living.stdout
    assert living.stdout.readline()
    while not is_gone(dead.pid):
        time.sleep(0.01)
    os.killpg(dead.pid, 0)  # the system has not forgotten it
    assert (runs(dead.pid), runs(living.pid)) == (False, True)
    living.kill()
    for child in (dead, living):
        child.communicate()


async def test_a_child_that_hears_no_signal_is_killed_when_it_must_stop(
    supervised: tuple[Supervisor, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraland.child.Child.end.__defaults__", (signal.SIGTERM, 0.5))
    supervisor, log = supervised
    supervisor.keep(child("import signal; signal.signal(15, signal.SIG_IGN); " + COUNT))
    pid = pid_in(await log.until("| pid"))
    await supervisor.end()
    assert "child did not stop within" in await log.until("did not stop")
    assert is_gone(pid)


async def test_a_command_that_cannot_be_started_is_tried_again(
    supervised: tuple[Supervisor, Log], tmp_path: Path
) -> None:
    supervisor, log = supervised
    command = tmp_path / "command"
    supervisor.keep(Service("child", (str(command),)))
    assert "could not be started" in await log.until("child could")
    command.write_text("#!/bin/sh\necho here; sleep 60")
    command.chmod(0o700)
    await log.until("| here")


FREEZES = {
    "an expression that backtracks": "import re; re.fullmatch('(a|a)*b', 'a' * 60)",
    "a signal": "import os; os.kill(os.getpid(), 19)",
    "a deadlock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
}
SERVER = """
import http.server, sys, os
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        if Handler.asked > 2:
            freeze()
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
def freeze():
    {freeze}
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("pid", os.getpid(), flush=True)
server.serve_forever()
"""


def looking_at(port: int, seconds: float = 1.0) -> Watch:
    async def look() -> None:
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                answer = await reader.read()
                writer.close()
        except (OSError, TimeoutError) as error:
            raise Silent(f"port {port} does not answer") from error
        assert answer.startswith(b"HTTP/1.0 200")

    return Watch(look, every=0.1, patience=2, grace=200)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("cause", FREEZES)
async def test_a_child_that_answers_no_more_is_started_again(
    supervised: tuple[Supervisor, Log], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cause == "a signal":  # which lets it write nothing
        monkeypatch.setattr("loraland.supervisor.TRACEBACK_SECONDS", 0.5)
    supervisor, log = supervised
    port = free_port()
    command = (sys.executable, "-c", SERVER.format(freeze=FREEZES[cause]), str(port))
    supervisor.keep(Service("child", command, watch=looking_at(port)))
    first = pid_in(await log.until("| pid"))
    second = pid_in(await log.until("| pid", 2))
    assert first != second
    assert is_gone(first)
    assert f"it no longer answers: port {port} does not answer" in await log.until("no longer answers")


async def test_a_frozen_child_leaves_word_of_where_it_stood(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    port = free_port()
    freeze = FREEZES["an expression that backtracks"]
    command = (sys.executable, "-c", SERVER.format(freeze=freeze), str(port))
    supervisor.keep(Service("child", command, watch=looking_at(port)))
    await log.until("no longer answers")
    assert "in freeze" in await log.until("in freeze")


async def test_a_child_that_is_slow_and_answers_is_left_alone(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised
    port, enough, looks = free_port(), asyncio.Event(), 0
    watch = looking_at(port, seconds=10)

    async def look() -> None:
        nonlocal looks
        await watch.look()
        looks += 1
        if looks == 12:
            enough.set()

    command = (sys.executable, "-c", SERVER.format(freeze="import time; time.sleep(0.3)"), str(port))
    supervisor.keep(Service("child", command, watch=Watch(look, every=0.05, patience=2, grace=200)))
    await enough.wait()
    assert not any("no longer answers" in line for line in log)


async def test_a_look_that_fails_of_itself_is_told_and_ends_nobody(supervised: tuple[Supervisor, Log]) -> None:
    supervisor, log = supervised

    async def look() -> None:
        raise RuntimeError("a mistake of ours")

    service = child(COUNT)
    supervisor.keep(Service("child", service.command, watch=Watch(look, every=0.02, patience=1, grace=1)))
    await log.until("cannot see whether child answers: RuntimeError('a mistake of ours')", 5)
    assert not any("ended" in line for line in log.said)


def is_gone(pid: int) -> bool:
    """Whether no such process runs; the dead whom nobody has buried count as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_every_service_of_the_site_is_watched() -> None:
    assert all(service.watch for service in services())


def test_one_service_may_be_kept_alone(settings: Settings) -> None:
    settings.WORKER_NAME = "box-7"
    assert [service.name for service in services(["web"])] == ["web"]
    assert [service.environment["WORKER_NAME"] for service in services(["worker"])] == ["box-7"]
    assert [service.environment["WORKER_NAME"] for service in services(["trainer"])] == ["box-7"]


def test_each_base_has_workers_of_its_own(settings: Settings, other_base: str) -> None:
    kept = {service.name: service.environment for service in services() if service.name.startswith("worker")}
    assert list(kept) == ["worker-1", "worker-tiny-llama-1", "worker-tiny-llama-2"]
    assert {name: told["BASE_MODEL"] for name, told in kept.items()} == {
        "worker-1": settings.BASE_MODEL,
        "worker-tiny-llama-1": "owner/Tiny-Llama",
        "worker-tiny-llama-2": "owner/Tiny-Llama",
    }
    settings.WORKER_NAME, settings.WORKERS = "box-7", {settings.BASE_KEY: 0, "tiny-llama": 1}
    assert [service.name for service in services(["worker"])] == ["box-7-tiny-llama"], "the other runs elsewhere"


def test_two_hosts_on_one_redis_have_no_worker_and_no_trainer_of_one_name(settings: Settings) -> None:
    settings.REDIS_IS_EMBEDDED = False
    kept = {service.name: service.environment["WORKER_NAME"] for service in services(["worker", "trainer"])}
    assert kept == {"worker-1": f"{liveness.HOST}-worker-1", "trainer": f"{liveness.HOST}-trainer"}
    settings.WORKER_NAME = "box-7"
    assert {service.environment["WORKER_NAME"] for service in services(["worker", "trainer"])} == {"box-7"}
    settings.REDIS_IS_EMBEDDED = True
    assert services()[1].environment["WORKER_NAME"] == "worker-1", "nobody else is on a Redis of one's own"


def test_an_unknown_service_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["webb"])
    assert "there is no service webb; there are web, worker, celery" in capsys.readouterr().err


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


def test_a_service_alone_needs_no_room_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started again on a disk that has filled up, and says what it cannot keep."""

    async def serve(names: list[str]) -> int:
        return 0

    monkeypatch.setattr("loraland.__main__.serve", serve)
    monkeypatch.setattr("loraland.__main__.FREE_MB", 10**9)
    monkeypatch.setattr("loraland.__main__.check_port", lambda host, port: None)
    assert (main(["web"]), main([])) == (0, 1)
