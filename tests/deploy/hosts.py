"""Hosts of one site: each a VAR_DIR of its own with a web process in it, on one Redis and one database."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest

from loraland.__main__ import celery_command
from tests.bench.processes import children
from tests.bench.site import environment
from tests.patience import PATIENCE

REPO: Final = Path(__file__).parents[2]
OF_ALL: Final = {"SECRET_KEY": "s" * 50, "DEBUG": "1", "LOG_LEVEL": "warning", "HOST": "127.0.0.1"}
"""What the hosts of one site have alike; with DEBUG no static files need to be collected."""


@dataclass
class Host:
    """One host: its processes run in its own VAR_DIR."""

    name: str
    variables: dict[str, str]
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.variables['PORT']}"

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self.variables['PORT']}"

    def serve(self) -> None:
        """Start its web process and wait until it answers."""
        web = self._begin("web", "-m", "loraland.web")
        deadline = time.monotonic() + PATIENCE
        while not self.is_up():
            assert web.poll() is None, f"the web process of {self.name} ended with {web.returncode}"
            assert time.monotonic() < deadline, f"the web process of {self.name} does not answer"
            time.sleep(0.05)

    def record(self) -> None:
        """Start its recorder."""
        self._begin("recorder", "manage.py", "record", "--name", self.name)

    def work(self) -> None:
        """Start its worker, which need not be there yet for somebody to ask."""
        self._begin("worker", "-m", "inference")

    def do_jobs(self) -> None:
        """Start its Celery, with a Beat."""
        self._begin("celery", *celery_command()[1:])

    def train(self) -> None:
        """Start its training server."""
        self._begin("trainer", "-m", "inference.training", "--serve")

    def kill(self, *names: str) -> None:
        """End those of its processes, or all of them, with their children and without a warning."""
        for name in names or [*self.running]:
            process = self.running.pop(name)
            for pid in children(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(PATIENCE)

    def _begin(self, which: str, *command: str) -> subprocess.Popen[str]:
        self.running[which] = subprocess.Popen([sys.executable, *command], cwd=REPO, env=self.variables, text=True)
        return self.running[which]

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def manage(self, *arguments: str, **more: str) -> str:
        """Run a management command here; its output."""
        command = [sys.executable, "manage.py", *arguments]
        variables = {**self.variables, **more}
        return subprocess.run(command, cwd=REPO, env=variables, check=True, stdout=subprocess.PIPE, text=True).stdout

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        for process in self.running.values():
            process.send_signal(number)
        for process in self.running.values():
            process.wait(PATIENCE)
        self.running.clear()


@contextmanager
def hosts(directory: Path, names: Sequence[str], shared: Mapping[str, str]) -> Iterator[list[Host]]:
    """Hosts called `names` below `directory`, none of which serves yet; `shared` are variables of all of them."""
    made = []
    for name in names:
        (directory / name).mkdir(parents=True)
        own = {"VAR_DIR": str(directory / name), "PORT": str(free_port())}
        made.append(Host(name, environment() | OF_ALL | dict(shared) | own))
    try:
        yield made
    finally:
        for host in made:
            host.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of its own, until the block ends."""
    words = [str(REPO / "bin/with-postgres"), "sh", "-c", 'echo "$DATABASE_URL"; cat']
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        if not (url := server.stdout.readline().strip()):
            pytest.skip("PostgreSQL's server is not installed")
        yield url
    finally:
        server.communicate("")


def database_of(directory: Path) -> str:
    """The shared database: the one that bin/with-postgres names, else a file of SQLite."""
    return os.environ.get("DATABASE_URL") or f"sqlite:///{directory / 'site.sqlite3'}"
