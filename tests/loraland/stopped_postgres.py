"""Run under bin/with-postgres: a web process whose PostgreSQL is stopped and started again says so, and comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from tests.patience import PATIENCE, patiently

HOME = Path(unquote(urlsplit(os.environ["DATABASE_URL"]).netloc.partition("@")[2]))
TOOLS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
QUESTION = {"model": "base", "messages": [{"role": "user", "content": "Hello"}]}


def command(*words: str) -> str:
    return subprocess.run([sys.executable, "manage.py", *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def stopped() -> Iterator[None]:
    os.kill(int((HOME / "data/postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    yield
    owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    options = f"-c listen_addresses='' -c fsync=off -c unix_socket_directories={HOME}"
    words = [str(TOOLS / "pg_ctl"), "-D", str(HOME / "data"), "-w", "-l", str(HOME / "log"), "-o", options, "start"]
    subprocess.run([*owner, *words], check=True, stdout=subprocess.DEVNULL)


def until(site: httpx.Client, path: str, status: int) -> httpx.Response:
    for _ in patiently():
        if (answer := site.get(path)).status_code == status:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"{path} answers {answer.status_code}, not {status}: {answer.text[:200]}")


def until_missing(site: httpx.Client, what: set[str]) -> None:
    """Until /readyz says so: what it found is told again for a while."""
    for _ in patiently():
        if what <= (missing := set(site.get("/readyz").json()["missing"])):
            return
        time.sleep(0.2)
    raise AssertionError(f"/readyz misses {missing}, and not {what}")


def main() -> None:
    command("migrate", "--verbosity=0")
    command("collectstatic", "--no-input", "--verbosity=0")
    secret = command("create_api_key", "tests").splitlines()[-1]
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    words = ["-m", "uvicorn", "loraland.asgi:application", "--fd", str(listening.fileno()), "--log-level", "error"]
    web = subprocess.Popen([sys.executable, *words], pass_fds=[listening.fileno()])
    try:
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {secret}"}, timeout=PATIENCE) as site:
            check(site)
    finally:
        web.terminate()
        web.wait(PATIENCE)


def check(site: httpx.Client) -> None:
    assert until(site, "/v1/models", 200)
    assert "database" not in site.get("/readyz").json()["missing"]
    with stopped():
        asked = (site.get("/v1/models"), site.get("/chat/"), site.post("/v1/chat/completions", json=QUESTION))
        for told in asked:
            assert (told.status_code, told.headers["Retry-After"]) == (503, "10"), told.text[:200]
        until_missing(site, {"database", "writes"})
        assert site.get("/healthz").status_code == 200
    until(site, "/v1/models", 200)
    until(site, "/chat/", 200)


if __name__ == "__main__":
    main()
    print("came back")
