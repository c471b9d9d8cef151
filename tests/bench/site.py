"""A live site as `make run` starts it, in a directory and on a port of its own, for as long as a block lasts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.load import Target
from tests.bench.processes import children, name_of

REPO: Final = Path(__file__).parents[2]
PLAIN: Final = {"PREFIX_CACHE": "off", "SPECULATION": "off"}
"""The setting of every comparison: what is measured is computed, not remembered."""
START_SECONDS: Final = 300


@dataclass
class Site:
    """A running site; `variables` are its whole environment."""

    url: str
    pids: tuple[int, ...]
    var_dir: Path
    variables: dict[str, str]
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        return self.target_of("bench")

    def target_of(self, tenant: str) -> Target:
        """The site as the holder of a key named `tenant` sees it; every tenant has a key of its own."""
        if tenant not in self.keys:
            self.keys[tenant] = self.manage("create_api_key", tenant).split()[-1]
        return Target(self.url, self.keys[tenant], self.pids)

    @property
    def worker(self) -> int:
        """The process id of the worker."""
        return next(pid for pid in children(self.pids[0]) if name_of(pid) == "worker")

    def manage(self, *arguments: str) -> str:
        """Run a management command; its output."""
        return self.python("manage.py", *arguments)

    def python(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=REPO, env=self.variables, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments[:2])} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    def get(self, path: str) -> str:
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.target.key}"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(response.read().decode())

    def models(self) -> set[str]:
        return {model["id"] for model in json.loads(self.get("/v1/models"))["data"]}

    def import_adapters(self, paths: list[Path]) -> None:
        """Import adapters through the same door as an owner and wait until each one answers."""
        self.manage("import_adapter", *map(str, paths))
        missing = {path.name for path in paths} - self.models()
        if missing:
            raise RuntimeError(f"imported but not served: {', '.join(sorted(missing))}")


@contextmanager
def running(var_dir: Path, models: Path, settings: dict[str, str], worker: str = "") -> Iterator[Site]:
    """Start a site whose base models lie in `models`, yield it when it can answer, and end it.

    `worker` is a module that serves instead of the site's own workers, such as `tests.bench.hollow`.
    """
    var_dir.mkdir(parents=True, exist_ok=True)
    if not (var_dir / "models").exists():
        (var_dir / "models").symlink_to(models.resolve())
    port, log = free_port(), var_dir / "site.log"
    variables = environment() | {"VAR_DIR": str(var_dir), "PORT": str(port)} | settings
    variables |= {"WORKERS": "0"} if worker else {}
    modules = ["loraland", worker] if worker else ["loraland"]
    processes = [_start(module, variables, log) for module in modules]
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/readyz"), processes[0], log)
        yield Site(url, tuple(process.pid for process in processes), var_dir, variables)
    finally:
        for process in reversed(processes):
            end(process)


def _start(module: str, variables: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-m", module], cwd=REPO, env=variables, stdout=out, stderr=out)


def environment() -> dict[str, str]:
    """What a child needs of our environment: nothing that would set up a site otherwise than by default."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "CPATH", "CC", "CXX")
    return {name: os.environ[name] for name in kept if name in os.environ}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any], log: Path) -> float:
    """Seconds until `condition` holds; raises when the process ends first or it takes too long."""
    began = time.monotonic()
    while not condition():
        if process.poll() is not None or time.monotonic() - began > START_SECONDS:
            raise RuntimeError(f"did not start; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)
    return time.monotonic() - began


def end(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
