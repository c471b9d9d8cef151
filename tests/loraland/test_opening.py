"""What `make run` shows: stages in their order, one line for what fails, and a calm end."""

from __future__ import annotations

import asyncio
import fcntl
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from loraland.logs import LogFiles
from loraland.opening import CannotStart, Opening, megabytes_fetched
from loraland.supervisor import Service, Supervisor
from loraland.terminal import Terminal

REPO = Path(__file__).parents[2]


def start(var_dir: Path, **variables: str) -> subprocess.Popen[str]:
    """The site as `make run` starts it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    environment = {**kept, "VAR_DIR": str(var_dir), "PORT": str(port), **variables}
    command = [sys.executable, "-m", "loraland"]
    return subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def read_until(site: subprocess.Popen[str], part: str) -> list[str]:
    """What the site says up to a line with `part`."""
    assert site.stdout
    lines: list[str] = []
    for line in site.stdout:
        lines.append(line.rstrip("\n"))
        if part in line:
            return lines
    raise AssertionError("\n".join(lines))


def left_over(var_dir: Path) -> list[str]:
    """The processes that run for a site in `var_dir`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"VAR_DIR={var_dir}\0" in path.read_text(errors="replace"):
                found.append(path.parent.name)
        except OSError:  # it has ended
            continue
    return found


def test_a_stage_that_fails_tells_the_last_lines_of_its_log_and_what_to_do(tmp_path: Path) -> None:
    site = start(tmp_path, BASE_MODEL="/no/such/base")
    said, _ = site.communicate()
    assert site.returncode == 1
    failed, stopped, sentence, *lines = said.splitlines()
    assert failed.startswith("  base model  failed (")
    assert stopped.startswith("  stop        all processes (")
    assert sentence.startswith("Cannot start: `python -m inference.fetch` ended with exit code 1 (see ")
    assert sentence.endswith(f"{tmp_path}/log/base.log). Mend what its last lines tell and start again:")
    assert "BASE_MODEL=/no/such/base is no directory with a config.json" in "".join(lines)
    assert left_over(tmp_path) == []


def test_an_unknown_level_of_logs_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    site = start(tmp_path, LOG_LEVEL="loud")
    said, _ = site.communicate()
    assert said == "Cannot start: LOG_LEVEL='loud' is not known; choose debug, info, warning or error\n"
    assert site.returncode == 1


def test_an_interrupt_in_the_middle_of_a_stage_ends_all_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with (tmp_path / "models" / ".some.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # for which the base model waits
        site = start(tmp_path, BASE_MODEL="owner/some")
        log = tmp_path / "log" / "base.log"
        while not log.exists():
            assert site.poll() is None
        site.send_signal(signal.SIGINT)
        said, _ = site.communicate()
    assert site.returncode == 0
    [line] = said.splitlines()
    assert line.startswith("  stop        all processes (")
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_the_stages_of_a_start_are_told_in_their_order_and_later_what_dies(tmp_path: Path) -> None:
    from tests.chaos.world import BASE, SETTINGS, make_base  # which loads torch

    make_base(tmp_path / "models" / BASE)
    site = start(tmp_path, **SETTINGS)
    said = read_until(site, "Stop: Ctrl-C")
    stages = [line[2:12].strip() for line in said if line.startswith("  ") and " s)" in line]
    assert list(dict.fromkeys(stages)) == ["base model", "database", "adapters", "engine"]
    assert any(line.startswith("  Ready: http://127.0.0.1:") for line in said)
    assert "".join(said).isprintable()

    worker = next(pid for pid in left_over(tmp_path) if "-m\0inference\0" in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(int(worker), signal.SIGKILL)
    died = read_until(site, "SIGKILL")[-1]
    assert " ended with signal SIGKILL; starting it again in " in died
    assert died.endswith(f"s (see {tmp_path}/log/{died.split()[0]}.log)")
    site.send_signal(signal.SIGINT)
    assert site.stdout
    assert site.stdout.read().splitlines()[-1].startswith("  stop        all processes (")
    assert (site.wait(), left_over(tmp_path)) == (0, [])
    logs = {path.name for path in (tmp_path / "log").iterdir()}
    steps, services = {"base", "database", "adapters"}, {"redis", "recorder", "worker-1", "worker-2", "trainer", "web"}
    assert logs >= {f"{name}.log" for name in steps | services}


Opened = tuple[Opening, Supervisor, io.StringIO]


@pytest.fixture
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    """The opening of a site without services, and what it tells a pipe."""
    monkeypatch.setattr("loraland.terminal.TELL_SECONDS", 0.05)
    monkeypatch.setattr("loraland.opening.ASK_SECONDS", 0.05)
    monkeypatch.setattr("loraland.opening.LOOK_SECONDS", 0.05)
    out = io.StringIO()
    terminal = Terminal(out)
    logs = LogFiles(tmp_path, terminal.say)
    supervisor = Supervisor(terminal.say, logs)
    yield Opening(supervisor, terminal, logs), supervisor, out
    await supervisor.end()


async def until_told(out: io.StringIO, part: str) -> None:
    while True:
        if part in out.getvalue():
            return
        await asyncio.sleep(0.02)


async def test_a_service_that_ends_again_and_again_stops_the_start(opened: Opened, settings: Settings) -> None:
    opening, supervisor, out = opened
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.PORT = server.getsockname()[1]
    supervisor.keep(Service("worker-1", (sys.executable, "-c", "raise RuntimeError('no memory')")))
    with pytest.raises(CannotStart, match=r"worker-1 ends again and again \(see (.|\n)*\n    RuntimeError: no memory"):
        await opening.wait_for_engine()
    assert "  engine      waits for web (" in out.getvalue()
    assert "  engine      failed (" in out.getvalue()


@pytest.fixture
def readyz(settings: Settings) -> Iterator[dict[str, object]]:
    """What the web process at the address of the site answers at /readyz."""
    report: dict[str, object] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if report["missing"] else 200)
            self.end_headers()
            self.wfile.write(json.dumps(report).encode())

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        settings.HOST, settings.PORT = "127.0.0.1", server.server_port
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield report
        server.shutdown()


async def test_the_engine_is_there_when_readyz_says_so_and_what_it_waits_for_is_told(
    readyz: dict[str, object], opened: Opened, settings: Settings
) -> None:
    opening, _, out = opened
    readyz |= {"missing": ["worker"]}
    waiting = asyncio.create_task(opening.wait_for_engine())
    await until_told(out, "  engine      waits for worker (")
    assert not waiting.done()
    readyz |= {"missing": [], "self_check": "exact"}
    await waiting
    assert out.getvalue().splitlines()[-1].startswith(f"  engine      {settings.BASE_NAME}, exact (")


async def test_what_fails_in_an_open_site_is_one_line_and_its_return_another(
    readyz: dict[str, object], opened: Opened, tmp_path: Path, settings: Settings
) -> None:
    opening, _, out = opened
    readyz |= {"missing": []}  # and no more, as strangers are told
    await opening.wait_for_engine()
    looking = asyncio.create_task(opening.look_on())
    readyz |= {"missing": ["disk", "writes"]}
    await until_told(out, "Not ready")
    readyz |= {"missing": []}
    await until_told(out, "\nReady")
    looking.cancel()
    see = f"(see {tmp_path}/*.log)"
    assert out.getvalue().splitlines()[1:] == [
        f"Not ready: waits for disk, writes {see}",
        f"Ready: {settings.BASE_NAME} {see}",
    ]


def test_the_progress_of_the_base_model_is_what_is_written_of_it(tmp_path: Path, settings: Settings) -> None:
    settings.MODELS_DIR = tmp_path
    assert megabytes_fetched() == ""
    partial = tmp_path / ".base.x1.partial" / ".cache"
    partial.mkdir(parents=True)
    (partial / "model.incomplete").write_bytes(b"x" * 3 * 2**20)
    assert megabytes_fetched() == "3 MB written"
