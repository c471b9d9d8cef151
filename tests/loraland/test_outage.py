"""A database that is locked, full or gone: what every door of the site says meanwhile, and that nothing is lost."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.db import DatabaseError, OperationalError, connection, connections
from django.db.backends.signals import connection_created
from django.test import AsyncClient
from django.urls import reverse

from loraland import broken, storage
from loraland.__main__ import services
from loraland.api.models import ApiKey
from loraland.gate import UPLOADS, Gate
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from loraland.handlers import ApiHandler, SharedThreads, by_path
from loraland.outage import is_outage
from loraland.playground import consumers
from loraland.playground.farewell import SIGNED_OUT, UNAVAILABLE
from loraland.playground.models import Conversation
from tests.loraland.playground.page import Browser
from tests.loraland.server import Server
from tests.patience import PATIENCE

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("postgres" in str(connection.vendor), reason="makes trouble for SQLite"),
]

HELLO = [{"role": "user", "content": "Hello " * 2000}]
"""Of more than a page, so that no page which is partly free takes it."""


class Store:
    """A database file of this test's own, and the trouble that it can be in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another process writes, and does not come to an end."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def full(self) -> Iterator[None]:
        """The database may not grow by a page, and has none to spare that earlier tests left."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("VACUUM")

        def bound(connection: Any, **_: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA max_page_count = 1")  # SQLite takes the size that it has

        connection_created.connect(bound)
        try:
            yield
        finally:
            connection_created.disconnect(bound)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """The disk with the database is not there."""
        away = self.path.parent.with_name("away")
        self.path.parent.rename(away)
        try:
            yield
        finally:
            away.rename(self.path.parent)


@contextmanager
def own_database(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The site over a copy of the tests' database in `directory`, for which it waits a moment only."""
    facts = connections.settings["default"]
    store = Store(directory / "db.sqlite3")
    with closing(sqlite3.connect(facts["NAME"])) as source, closing(sqlite3.connect(store.path)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = WAL")
    monkeypatch.setitem(facts, "NAME", str(store.path))
    monkeypatch.setitem(facts, "OPTIONS", {**facts["OPTIONS"], "timeout": 0.3})
    monkeypatch.setattr(storage, "FRESH_SECONDS", 0.0)
    yield store
    monkeypatch.undo()


@pytest_asyncio.fixture
async def store(site_wire: Any, transactional_db: None, tmp_path: Path, monkeypatch: Any) -> AsyncIterator[Store]:
    connections.close_all()
    await sync_to_async(connections.close_all)()
    (tmp_path / "disk").mkdir()
    with own_database(tmp_path / "disk", monkeypatch) as store:
        yield store
        await sync_to_async(connections.close_all)()
        connections.close_all()


@pytest_asyncio.fixture
async def api(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """A program with a key, at a server whose threads have opened no database yet."""
    _, secret = await sync_to_async(ApiKey.objects.issue)("tests")
    server = Server(Gate(by_path(SharedThreads(ApiHandler()), get_asgi_application())))
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE) as client:
        yield client
    server.close()


async def chat(api: httpx.AsyncClient) -> httpx.Response:
    return await api.post("/v1/chat/completions", json={"model": "base", "messages": HELLO})


TROUBLES: dict[str, Callable[[Store], Any]] = {"locked": Store.locked, "full": Store.full}


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_program_is_told_to_come_back_and_reads_the_models_meanwhile(store, api, answering, trouble):
    answering()
    with TROUBLES[trouble](store):
        refused = await chat(api)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert refused.json()["error"]["code"] == "unavailable"
        assert refused.json()["error"]["type"] == "server_error"
        assert (await api.get("/v1/models")).status_code == 200
        if trouble == "locked":
            ready = await api.get("/readyz")
            assert (ready.status_code, ready.json()["missing"]) == (503, ["writes"])
    await sync_to_async(connections.close_all)()
    if trouble == "locked":
        assert (await chat(api)).status_code == 200
        assert (await api.get("/readyz")).json()["missing"] == []


async def test_a_database_that_is_gone_is_told_at_every_door(store, api):
    visitor = await Browser().visit()
    await sync_to_async(connections.close_all)()
    with store.gone():
        for path in ("/v1/models", "/", "/chat/", "/adapters/emotion/", "/leaderboard/"):
            told = await api.get(path)
            assert (told.status_code, told.headers["Retry-After"]) == (503, "10"), path
            assert "read or keep anything right now" in told.text
        assert (await chat(api)).json()["error"]["code"] == "unavailable"
        cookie = f"sessionid={visitor.session_key}"
        upload = await api.post(reverse(UPLOADS[0]), content=bytes(5 * 2**20), headers={"Cookie": cookie})
        assert (upload.status_code, upload.headers["Retry-After"]) == (503, "10")
        assert {"database", "writes"} <= set((await api.get("/readyz")).json()["missing"])
        assert (await api.get("/healthz")).status_code == 200
        async with visitor.page() as page:
            assert await page.closed() == UNAVAILABLE
    await sync_to_async(connections.close_all)()
    assert (await api.get("/v1/models")).status_code == 200


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_page_that_cannot_keep_something_says_so(store, trouble):
    visitor = await Browser().visit()
    client = AsyncClient(raise_request_exception=False)
    client.cookies = visitor.client.cookies
    kept = await Conversation.objects.acreate(session_key=visitor.session_key, title="Bridges")
    await sync_to_async(connections.close_all)()
    with TROUBLES[trouble](store):
        assert (await client.get("/chat/")).status_code == 200
        if trouble == "locked":
            told = await client.post(f"/chat/{kept.pk}/rename/", {"title": "Towers"})
            assert (told.status_code, told["Retry-After"]) == (503, "10")
            assert "read or keep anything right now" in told.content.decode()
    await sync_to_async(connections.close_all)()
    assert (await client.post(f"/chat/{kept.pk}/rename/", {"title": "Towers"})).status_code == 302


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_socket_refuses_what_it_cannot_keep_and_stays_open(store, trouble):
    visitor = await Browser().visit()
    await sync_to_async(connections.close_all)()
    ask = {"type": "start", "request": "r", "conversation": None, "adapter": "", "text": HELLO[0]["content"]}
    with TROUBLES[trouble](store):
        async with visitor.page() as page:
            await page.say(**ask)
            refused = await page.hear("refused")
            assert (refused["code"], refused["retry_after"], refused["act"]) == ("unavailable", 10, "retry")
        if trouble == "locked":
            async with Browser().page(query="new") as page:
                assert await page.closed() == UNAVAILABLE
    await sync_to_async(connections.close_all)()
    async with Browser().page(query="new") as page:
        await page.say(**ask)
        assert await page.hear("started")
    assert consumers.AnswersConsumer.sockets.total() == 0


async def test_a_socket_is_not_called_signed_out_while_nobody_can_be_known(store, monkeypatch):
    visitor = await Browser().visit()
    monkeypatch.setattr(consumers, "SESSION_SECONDS", 0.05)
    async with visitor.page() as page:
        await sync_to_async(connections.close_all)()
        with store.gone():
            await page.say(type="stop", answer="00000000-0000-0000-0000-000000000000")
            assert await page.closed() == UNAVAILABLE != SIGNED_OUT


async def test_an_answer_is_told_to_its_end_and_kept_as_soon_as_that_is_possible(store, answering, site_wire):
    visitor = await Browser().visit()
    async with visitor.page() as page:
        await page.say(type="start", request="r", conversation=None, adapter="", text="one two three")
        started = await page.hear("started")
        await sync_to_async(connections.close_all)()
        with store.locked():
            answering()
            deltas, end = await page.hear_out(started["answer"])
            assert ("".join(delta["text"] for delta in deltas), end["reason"]) == ("one two three", "done")
            recorder = Recorder("r")
            assert not await recorder.step(50)
            assert not (await Generation.objects.aget()).is_finished
            await sync_to_async(connections.close_all)()
    assert await recorder.step(50)
    kept = await Generation.objects.aget()
    assert (kept.status, kept.text) == ("done", "one two three")


async def test_an_answer_is_told_unjudged_where_nobody_can_say_what_was_expected(store, answering, monkeypatch):
    def unknown(_: Generation) -> None:
        raise OperationalError("the server closed the connection")

    answering()
    monkeypatch.setattr("loraland.playground.telling.expectation_of", unknown)
    visitor = await Browser().visit()
    async with visitor.page() as page:
        await page.say(type="start", request="r", conversation=None, adapter="", text="one two three")
        _, end = await page.hear_out((await page.hear("started"))["answer"])
        assert (end["type"], end["text"], end["judgement"].strip()) == ("finished", "one two three", "")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", directory], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_a_full_disk_is_told_and_nothing_is_lost(site_wire, transactional_db, small_disk, monkeypatch, settings):
    connections.close_all()
    await sync_to_async(connections.close_all)()
    settings.VAR_DIR = small_disk
    with own_database(small_disk, monkeypatch):
        _, secret = await sync_to_async(ApiKey.objects.issue)("tests")
        server = Server(by_path(SharedThreads(ApiHandler()), get_asgi_application()))
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE) as api:
            assert "disk" not in (await api.get("/readyz")).json()["missing"]
            await sync_to_async(Generation.objects.create)(source="api", base="b", request={}, tenant="key:1")
            filling = small_disk / "fill"
            fill(filling)
            assert shutil.disk_usage(small_disk).free == 0
            refused = [await chat(api) for _ in range(9)][-1]
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
            assert refused.json()["error"]["code"] == "unavailable"
            assert "disk" in (await api.get("/readyz")).json()["missing"]
            assert (await api.get("/v1/models")).status_code == 200
            filling.unlink()
            assert "disk" not in (await api.get("/readyz")).json()["missing"]
            await Generation.objects.filter(tenant="key:1").aupdate(text="kept")
        server.close()
        await sync_to_async(connections.close_all)()
        connections.close_all()


def test_a_defect_of_ours_is_no_outage():
    for error in (ValueError("x"), OSError(2, "no such file"), DatabaseError("Save did not affect any rows.")):
        assert not is_outage(error)
    caused = RuntimeError("while keeping a file")
    caused.__cause__ = OSError(28, "No space left on device")
    for error in (OperationalError("database is locked"), OSError(28, "No space left on device"), caused):
        assert is_outage(error)


def test_what_broke_for_another_reason_is_a_500(rf):
    assert broken.broken(rf.get("/chat/")).status_code == 500


@pytest.mark.parametrize(("given", "patience"), [(20, "5"), (3, "3")])
def test_the_web_process_has_less_patience_with_the_database_than_jobs(settings, given, patience):
    settings.DATABASE_WAIT_SECONDS = given
    told = {service.name: service.environment.get("DATABASE_WAIT_SECONDS") for service in services()}
    assert told.pop("web") == patience
    assert set(told.values()) == {None}
